//! One object: header in clear, ciphertext, tag; and its link in the digest chain (`format.md` §3, §4).

use super::VolumeFault;
use super::layout::TAG_BYTES;
use crate::keys::{ObjectKey, ObjectName, ObjectSort, VolumeKey};
use crate::release::HEAD_DIGEST_BYTES;
use aes_gcm::aead::{AeadInOut, KeyInit, Nonce, Tag};
use aes_gcm::{Aes256Gcm, Key};
use sha2::{Digest, Sha384};

/// The object's tag does not fit its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotAuthentic;

/// An object cut into its three parts.
struct Parts<'o> {
    header: &'o [u8],
    body: &'o mut [u8],
    tag: &'o mut [u8; TAG_BYTES],
}

fn cut(object: &mut [u8], header_bytes: usize) -> Option<Parts<'_>> {
    let (header, rest) = object.split_at_mut_checked(header_bytes)?;
    let (body, tag) = rest.split_last_chunk_mut::<TAG_BYTES>()?;
    Some(Parts { header, body, tag })
}

/// The cipher with nonce zero: each key seals one object (`format.md` §4).
fn cipher(key: &ObjectKey) -> (Aes256Gcm, Nonce<Aes256Gcm>) {
    let cipher = key.secret().with(|key| Aes256Gcm::new(&Key::<Aes256Gcm>::from(*key)));
    (cipher, Nonce::<Aes256Gcm>::default())
}

/// Seals `object` in place: its header and plaintext are written, the tag is not.
pub(super) fn seal(
    object: &mut [u8],
    header_bytes: usize,
    name: &ObjectName<'_>,
    key: &VolumeKey,
) -> Result<(), VolumeFault> {
    seal_once(object, header_bytes, &key.object(name))
}

/// As [`seal`], under the key itself, which seals nothing else.
pub(super) fn seal_once(object: &mut [u8], header_bytes: usize, key: &ObjectKey) -> Result<(), VolumeFault> {
    let parts = cut(object, header_bytes).ok_or(VolumeFault::Bounds)?;
    let (cipher, nonce) = cipher(key);
    let tag = cipher
        .encrypt_inout_detached(&nonce, parts.header, parts.body.into())
        .map_err(|_| VolumeFault::Bounds)?;
    parts.tag.copy_from_slice(&tag);
    Ok(())
}

/// Opens `object` in place and yields its plaintext.
pub(super) fn open<'o>(
    object: &'o mut [u8],
    header_bytes: usize,
    name: &ObjectName<'_>,
    key: &VolumeKey,
) -> Result<&'o mut [u8], NotAuthentic> {
    open_once(object, header_bytes, &key.object(name))
}

/// As [`open`], under the key itself.
pub(super) fn open_once<'o>(
    object: &'o mut [u8],
    header_bytes: usize,
    key: &ObjectKey,
) -> Result<&'o mut [u8], NotAuthentic> {
    let parts = cut(object, header_bytes).ok_or(NotAuthentic)?;
    let (cipher, nonce) = cipher(key);
    let tag = Tag::<Aes256Gcm>::from(*parts.tag);
    let body = parts.body;
    cipher
        .decrypt_inout_detached(&nonce, parts.header, (&mut *body).into(), &tag)
        .map_err(|_| NotAuthentic)?;
    Ok(body)
}

/// The head digest after `object`, as it lies on the disk.
#[must_use]
pub fn chain(sort: ObjectSort, previous: &[u8; HEAD_DIGEST_BYTES], object: &[u8]) -> [u8; HEAD_DIGEST_BYTES] {
    let hash = match sort {
        ObjectSort::Checkpoint => Sha384::new().chain_update(b"HUSK v1 checkpoint"),
        ObjectSort::Record => Sha384::new().chain_update(b"HUSK v1 record").chain_update(previous),
    };
    hash.chain_update(object).finalize().into()
}
