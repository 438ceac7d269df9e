//! Resources of a VM as they rest in the database: bytes that the tenant uploaded, of any length up to a bound.

use super::{RootKeys, VaultError};
use crate::ids::VmName;
use crate::world::World;
use aes_gcm::aead::{AeadInOut as _, KeyInit as _};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use hkdf::Hkdf;
use sha2::Sha384;
use zeroize::Zeroizing;

/// The longest resource in bytes: encrypted and framed, its answer fits a frame of the relay.
pub const RESOURCE_BYTES_MAX: usize = 4096;

const LABEL: &[u8] = b"HUSK v1 resource wrap\0";
const SALT_BYTES: usize = 32;
const TAG_BYTES: usize = 16;

/// Whose bytes are sealed, and as what.
pub(super) struct Wrapping<'v> {
    pub(super) label: &'static [u8],
    pub(super) vm: &'v VmName,
}

impl RootKeys {
    /// Seals a resource of `vm` for its path: a fresh salt, ciphertext, tag.
    ///
    /// # Errors
    /// [`VaultError::Entropy`], [`VaultError::Bug`].
    pub fn wrap_resource(
        &self,
        world: &dyn World,
        vm: &VmName,
        path: &str,
        content: &[u8],
    ) -> Result<Vec<u8>, VaultError> {
        self.wrap_bytes(world, (&Wrapping { label: LABEL, vm }, path.as_bytes()), content)
    }

    /// Opens what [`wrap_resource`](Self::wrap_resource) sealed for that very VM and path.
    ///
    /// # Errors
    /// [`VaultError::Altered`].
    pub fn unwrap_resource(
        &self,
        vm: &VmName,
        path: &str,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        self.unwrap_bytes((&Wrapping { label: LABEL, vm }, path.as_bytes()), sealed)
    }

    /// Seals bytes for `additional`: a fresh salt, ciphertext, tag.
    pub(super) fn wrap_bytes(
        &self,
        world: &dyn World,
        (wrapping, additional): (&Wrapping<'_>, &[u8]),
        content: &[u8],
    ) -> Result<Vec<u8>, VaultError> {
        let mut sealed = vec![0; SALT_BYTES];
        world.fill(&mut sealed).map_err(|_| VaultError::Entropy)?;
        let cipher = self.cipher_of(&sealed, wrapping)?;
        // Encrypted where it lies: no other copy is left behind.
        let mut body = content.to_vec();
        let tag = cipher
            .encrypt_inout_detached(&Nonce::default(), additional, body.as_mut_slice().into())
            .map_err(|_| VaultError::Bug)?;
        sealed.extend_from_slice(&body);
        sealed.extend_from_slice(&tag);
        Ok(sealed)
    }

    /// Opens what [`wrap_bytes`](Self::wrap_bytes) sealed.
    pub(super) fn unwrap_bytes(
        &self,
        (wrapping, additional): (&Wrapping<'_>, &[u8]),
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        let (salt, rest) = sealed.split_at_checked(SALT_BYTES).ok_or(VaultError::Altered)?;
        let (body, tag) = rest.split_last_chunk::<TAG_BYTES>().ok_or(VaultError::Altered)?;
        let mut content = Zeroizing::new(body.to_vec());
        self.cipher_of(salt, wrapping)?
            .decrypt_inout_detached(
                &Nonce::default(),
                additional,
                content.as_mut_slice().into(),
                &Tag::from(*tag),
            )
            .map_err(|_| VaultError::Altered)?;
        Ok(content)
    }

    /// The cipher of one wrap: its salt is fresh, so its key is used once and the nonce may be zero.
    fn cipher_of(&self, salt: &[u8], wrapping: &Wrapping<'_>) -> Result<Aes256Gcm, VaultError> {
        let mut key = Zeroizing::new([0; 32]);
        let derived = self.wrapping.with(|root| {
            let info = [wrapping.label, &wrapping.vm.tenant.0, &wrapping.vm.vm.0];
            Hkdf::<Sha384>::new(Some(salt), root).expand_multi_info(&info, key.as_mut_slice())
        });
        derived.map_err(|_| VaultError::Bug)?;
        Ok(Aes256Gcm::new(&(*key).into()))
    }
}

#[cfg(test)]
mod tests {
    use super::{RootKeys, VaultError, VmName};
    use crate::ids::{TenantId, VmId};
    use crate::world::Machine;

    #[test]
    fn a_resource_opens_for_its_vm_and_path_only() {
        let (world, vm) = (Machine::start(), VmName { tenant: TenantId([1; 16]), vm: VmId([2; 16]) });
        let keys = RootKeys::generate(&world).unwrap();
        let sealed = keys.wrap_resource(&world, &vm, "a/b/c", b"content").unwrap();
        assert_eq!(**keys.unwrap_resource(&vm, "a/b/c", &sealed).unwrap(), *b"content");
        let other = VmName { vm: VmId([3; 16]), ..vm };
        let refused = |opened: Result<_, VaultError>| assert!(matches!(opened, Err(VaultError::Altered)));
        refused(keys.unwrap_resource(&vm, "a/b/d", &sealed));
        refused(keys.unwrap_resource(&other, "a/b/c", &sealed));
        refused(RootKeys::generate(&world).unwrap().unwrap_resource(&vm, "a/b/c", &sealed));
        for at in 0..sealed.len() {
            let mut altered = sealed.clone();
            altered[at] ^= 1;
            refused(keys.unwrap_resource(&vm, "a/b/c", &altered));
            refused(keys.unwrap_resource(&vm, "a/b/c", &sealed[..at]));
        }
    }
}
