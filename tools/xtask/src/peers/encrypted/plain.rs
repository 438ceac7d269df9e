//! A guest whose volume lies over the whole root and has no tags: what is in clear, or has no TPM, never becomes the root.
//!
//! **What.** Two boots, of which the second finds what the first wrote into `/etc`; then a machine without a TPM, and a volume whose header has the null cipher.
//! **Trust.** As [`super`].
//! **Laws.** Where the volume is not the guest's, the boot ends in the initrd: no boot goes on over memory, or over a file system of the host's.
//! **Not here.** Such a volume with tags, and all that is altered around it: `overlay`.

use super::attack::{NO_TPM, NULL_CIPHER_IN_INITRD};
use super::on_swtpm::{boot, boot_without_tpm};
use super::parts::{bytes, partition};
use super::tagged::{VOLUME_INDEX, variant};
use super::{Site, opened, pcr_15, planted, removed, same_key, value};
use crate::failure::Failure;
use crate::peers::step;
use crate::steps::Step;

/// LUKS2's header with its key slots, up to the data (LUKS2 On-Disk Format Specification 1.1, section 2, as systemd-repart makes it).
const HEADER_BYTES: u64 = 16 << 20;

/// Builds the guest, boots it in front of swtpm, and does what the host does.
pub(super) fn boots(of: &Site) -> Result<Vec<Step>, Failure> {
    let site = variant(of, "plain", "mount = \"/\"\n")?;
    let first = boot(&site, "first", "tpm", &site.disk);
    let made = header(&site);
    let second = boot(&site, "second", "tpm", &site.disk);
    let keys = [&first, &second].map(|said| said.as_deref().ok().and_then(pcr_15));
    let mut steps = vec![
        step("first-boot-lays-it-over-the-root", first.and_then(|said| over_root(&said, "1"))),
        step("what-was-written-in-etc-is-there", second.and_then(|said| over_root(&said, "2"))),
        step("the-same-volume-by-pcr-15", same_key(&keys)),
        step("header-is-not-written-again", unchanged(made, header(&site))),
        NO_TPM.judged(boot_without_tpm(&site, NO_TPM.name, &site.disk)),
    ];
    let clear = site.place(NULL_CIPHER_IN_INITRD.name);
    let said = planted::null_cipher(&site.disk, &clear);
    let said = said.and_then(|()| boot(&site, NULL_CIPHER_IN_INITRD.name, "tpm", &clear));
    steps.push(removed(NULL_CIPHER_IN_INITRD.judged(said), &clear));
    Ok(steps)
}

/// A root that is an overlay over a volume that the TPM opened; this boot of it is counted in `/etc`.
fn over_root(said: &str, boot: &str) -> Result<String, Failure> {
    let seen = opened(said, boot)?;
    match (value(said, "root "), value(said, "tags")) {
        (Some("overlay"), Some("")) => Ok(format!("{seen}, over the root, without tags")),
        found => Err(Failure::failed(format!("the root and the volume's tags: {found:?}"))),
    }
}

fn header(site: &Site) -> Result<Vec<u8>, Failure> {
    bytes(&site.disk, partition(&site.disk, VOLUME_INDEX)?, HEADER_BYTES)
}

/// The header as the first boot left it and as the second did: a host that keeps old ones has this one alone.
fn unchanged(made: Result<Vec<u8>, Failure>, used: Result<Vec<u8>, Failure>) -> Result<String, Failure> {
    if made? == used? {
        Ok("the first boot's header is the second boot's, so that a host has no older one to bring".into())
    } else {
        Err(Failure::failed("the second boot wrote into the volume's header"))
    }
}
