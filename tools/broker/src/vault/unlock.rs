//! Secrets of guests as they rest in the database, sealed together with what a guest must be to have them.

use super::resource::Wrapping;
use super::{RootKeys, VaultError};
use crate::ids::VmName;
use crate::unlock::PcrPolicy;
use crate::world::World;
use zeroize::Zeroizing;

const LABEL: &[u8] = b"HUSK v1 unlock wrap\0";

impl RootKeys {
    /// Seals a secret of `vm` for its name and policy.
    ///
    /// # Errors
    /// [`VaultError::Entropy`], [`VaultError::Bug`].
    pub fn wrap_unlock(
        &self,
        world: &dyn World,
        vm: &VmName,
        (name, policy): (&str, &PcrPolicy),
        secret: &[u8],
    ) -> Result<Vec<u8>, VaultError> {
        self.wrap_bytes(world, (&wrapping(vm), &bound(name, policy)), secret)
    }

    /// Opens what [`wrap_unlock`](Self::wrap_unlock) sealed for that very VM, name and policy.
    ///
    /// # Errors
    /// [`VaultError::Altered`].
    pub fn unwrap_unlock(
        &self,
        vm: &VmName,
        (name, policy): (&str, &PcrPolicy),
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, VaultError> {
        self.unwrap_bytes((&wrapping(vm), &bound(name, policy)), sealed)
    }
}

const fn wrapping(vm: &VmName) -> Wrapping<'_> {
    Wrapping { label: LABEL, vm }
}

/// A name has no zero byte, so that no two pairs make the same bytes.
fn bound(name: &str, policy: &PcrPolicy) -> Vec<u8> {
    format!("{name}\0{policy}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::{PcrPolicy, RootKeys, VaultError, VmName};
    use crate::ids::{TenantId, VmId};
    use crate::world::Machine;

    #[test]
    fn a_secret_opens_for_its_vm_name_and_policy_only() {
        let (world, vm) = (Machine::start(), VmName { tenant: TenantId([1; 16]), vm: VmId([2; 16]) });
        let keys = RootKeys::generate(&world).unwrap();
        let policy = |value: &str| format!("11={}", value.repeat(32)).parse::<PcrPolicy>().unwrap();
        let own = policy("0a");
        let sealed = keys.wrap_unlock(&world, &vm, ("root", &own), b"passphrase").unwrap();
        assert_eq!(**keys.unwrap_unlock(&vm, ("root", &own), &sealed).unwrap(), *b"passphrase");
        let refused = |opened: Result<_, VaultError>| assert!(matches!(opened, Err(VaultError::Altered)));
        refused(keys.unwrap_unlock(&vm, ("data", &own), &sealed));
        refused(keys.unwrap_unlock(&vm, ("root", &policy("0b")), &sealed));
        refused(keys.unwrap_unlock(&VmName { vm: VmId([3; 16]), ..vm }, ("root", &own), &sealed));
        refused(RootKeys::generate(&world).unwrap().unwrap_unlock(&vm, ("root", &own), &sealed));
        refused(keys.unwrap_resource(&vm, &format!("root\0{own}"), &sealed));
    }
}
