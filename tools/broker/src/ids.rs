//! The names of tenants and VMs, as 32 hexadecimal digits.

use std::fmt;
use std::str::FromStr;

/// Names a tenant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TenantId(pub [u8; 16]);

/// Names a VM within its tenant.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VmId(pub [u8; 16]);

/// One VM of one tenant: what a row belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct VmName {
    /// Whose it is.
    pub tenant: TenantId,
    /// Which it is.
    pub vm: VmId,
}

/// The text is not an id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an id is 32 hexadecimal digits")]
pub struct NotAnId;

macro_rules! id {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = NotAnId;

            fn from_str(text: &str) -> Result<Self, NotAnId> {
                let mut id = [0; 16];
                hex::decode_to_slice(text, &mut id).map_err(|_| NotAnId)?;
                Ok(Self(id))
            }
        }
    };
}

id!(TenantId);
id!(VmId);

impl fmt::Display for VmName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.tenant, self.vm)
    }
}

#[cfg(test)]
mod tests {
    use super::{NotAnId, TenantId};

    #[test]
    fn ids_read_what_they_print() {
        let id = TenantId([0xA5; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("a5".parse::<TenantId>(), Err(NotAnId));
        assert_eq!("g".repeat(32).parse::<TenantId>(), Err(NotAnId));
    }
}
