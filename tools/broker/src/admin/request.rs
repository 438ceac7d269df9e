//! What may be asked, by whom, and why it may not be done.

use crate::ids::VmId;
use crate::policy::{Measurement, Policy, measurement};
use serde::de::{Deserializer, Error as _};
use serde::{Deserialize, Serialize, Serializer};

/// The longest request in bytes.
pub const REQUEST_BYTES_MAX: usize = 32 << 10;
/// How many VMs one answer lists.
pub const VMS_MAX: u32 = 100;

/// What a tenant lets an operator ask of a broker: bits of its certificate's `orders` that no ticket has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Right {
    /// See VMs, policies, the names of resources and the log.
    Read = 16,
    /// Change what is demanded of a VM's firmware and platform.
    Policy = 17,
    /// Enrol VMs.
    Enroll = 18,
    /// Put and remove what the broker, as a KBS, gives to VMs.
    Resources = 19,
}

impl Right {
    /// All of them, with their words.
    pub const ALL: [(&str, Self); 4] = [
        ("read", Self::Read),
        ("policy", Self::Policy),
        ("enroll", Self::Enroll),
        ("resources", Self::Resources),
    ];

    /// Its bit in `OperatorCertificate::orders`.
    #[must_use]
    pub const fn bit(self) -> u32 {
        1 << self as u8
    }

    /// Its word.
    #[must_use]
    pub fn word(self) -> &'static str {
        Self::ALL.iter().find(|(_, right)| *right == self).map_or("", |(word, _)| word)
    }
}

/// One request, in JSON: `{"vms": {"after": null}}`. What is bytes in it is hexadecimal; a resource's content is base64.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The tenant itself: its root key's point.
    Tenant {},
    /// The VMs behind one, [`VMS_MAX`] at most.
    Vms {
        /// The last one that is known.
        after: Option<Id>,
    },
    /// Where one stands, and what is demanded of it.
    Vm {
        /// Which.
        vm: Id,
    },
    /// Enrol one.
    Enroll {
        /// Which.
        vm: Id,
        /// SHA-256 of its launch configuration.
        #[serde(with = "hex_array")]
        host_data: [u8; 32],
        /// What is demanded.
        policy: Policy,
    },
    /// Demand something else of one.
    Policy {
        /// Which.
        vm: Id,
        /// What is demanded from now on.
        policy: Policy,
    },
    /// Let one more firmware have the keys.
    Allow {
        /// Which VM's.
        vm: Id,
        /// The launch digest.
        measurement: Firmware,
    },
    /// Let a firmware have the keys no more.
    Forbid {
        /// Which VM's.
        vm: Id,
        /// The launch digest.
        measurement: Firmware,
    },
    /// The log behind an entry.
    Audit {
        /// The last entry that is known.
        after: u64,
    },
    /// The paths of a VM's resources.
    Resources {
        /// Which VM's.
        vm: Id,
    },
    /// Keep a resource.
    PutResource {
        /// Whose.
        vm: Id,
        /// repository/type/tag.
        path: String,
        /// Its bytes.
        content: String,
        /// Whether one that is there may go.
        replace: bool,
    },
    /// Remove a resource.
    RemoveResource {
        /// Whose.
        vm: Id,
        /// repository/type/tag.
        path: String,
    },
    /// The names of a guest's secrets, each with its policy.
    Unlocks {
        /// Which VM's.
        vm: Id,
    },
    /// Keep a secret of a guest.
    PutUnlock {
        /// Whose.
        vm: Id,
        /// What it is called.
        name: String,
        /// The PCRs that the guest must have, in the one spelling of such a policy.
        policy: String,
        /// Its bytes.
        secret: String,
        /// Whether one that is there may go.
        replace: bool,
    },
    /// Remove a secret of a guest.
    RemoveUnlock {
        /// Whose.
        vm: Id,
        /// What it is called.
        name: String,
    },
}

impl Request {
    /// Its name in JSON.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Tenant {} => "tenant",
            Self::Vms { .. } => "vms",
            Self::Vm { .. } => "vm",
            Self::Enroll { .. } => "enroll",
            Self::Policy { .. } => "policy",
            Self::Allow { .. } => "allow",
            Self::Forbid { .. } => "forbid",
            Self::Audit { .. } => "audit",
            Self::Resources { .. } => "resources",
            Self::PutResource { .. } => "put_resource",
            Self::RemoveResource { .. } => "remove_resource",
            Self::Unlocks { .. } => "unlocks",
            Self::PutUnlock { .. } => "put_unlock",
            Self::RemoveUnlock { .. } => "remove_unlock",
        }
    }

    /// What must be allowed for it; everybody may ask who the tenant is.
    #[must_use]
    pub const fn right(&self) -> Option<Right> {
        match self {
            Self::Tenant {} => None,
            Self::Vms { .. }
            | Self::Vm { .. }
            | Self::Audit { .. }
            | Self::Resources { .. }
            | Self::Unlocks { .. } => Some(Right::Read),
            Self::Policy { .. } | Self::Allow { .. } | Self::Forbid { .. } => Some(Right::Policy),
            Self::Enroll { .. } => Some(Right::Enroll),
            Self::PutResource { .. }
            | Self::RemoveResource { .. }
            | Self::PutUnlock { .. }
            | Self::RemoveUnlock { .. } => Some(Right::Resources),
        }
    }
}

/// A VM's id in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Id(pub VmId);

impl Serialize for Id {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Id {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map(Self).map_err(D::Error::custom)
    }
}

/// A launch digest in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Firmware(pub Measurement);

impl Serialize for Firmware {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(self.0))
    }
}

impl<'de> Deserialize<'de> for Firmware {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        measurement(&String::deserialize(deserializer)?).map(Self).map_err(D::Error::custom)
    }
}

mod hex_array {
    use serde::de::{Deserialize, Deserializer, Error as _};
    use serde::ser::Serializer;

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex::encode(bytes))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let mut bytes = [0; 32];
        hex::decode_to_slice(String::deserialize(deserializer)?, &mut bytes)
            .map(|()| bytes)
            .map_err(|_| D::Error::custom("64 hexadecimal digits are expected"))
    }
}

macro_rules! failures {
    ($($(#[$doc:meta])* $name:ident = $status:literal, $word:literal, $says:literal;)*) => {
        /// Why a request was not done; nothing has changed then, but [`Failure::Unavailable`] leaves it open.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
        pub enum Failure {
            $($(#[$doc])* #[error($says)] $name,)*
        }

        impl Failure {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// Its status on HTTP.
            #[must_use]
            pub const fn status(self) -> u16 {
                match self { $(Self::$name => $status,)* }
            }

            /// Its word in JSON.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$name => $word,)* }
            }
        }
    };
}

failures! {
    /// Not a request.
    Malformed = 400, "malformed", "the broker does not understand the request; is it of another version?";
    /// Nobody's word.
    Unknown = 401, "unknown", "the broker knows no such operator: it is another broker, the tenant is not registered there, or its root key did not certify this key";
    /// A key that was replaced.
    Revoked = 401, "revoked", "this operator's key was revoked: the broker has seen one of a higher generation";
    /// Too old.
    Stale = 401, "stale", "the request came too late, by the broker's clock; ask again";
    /// Done before.
    Replayed = 401, "replayed", "the broker has done this very request before";
    /// The tenant did not allow it.
    NotAllowed = 403, "not_allowed", "the tenant did not let this operator ask for that; use a key that may (husk tenant operator --right …)";
    /// No such VM of this tenant.
    UnknownVm = 404, "unknown_vm", "the tenant has no such VM; see `husk vm list`";
    /// No such resource.
    UnknownResource = 404, "unknown_resource", "the VM has no such resource; see `husk vm resource list`";
    /// No such secret.
    UnknownUnlock = 404, "unknown_unlock", "the VM's guest has no such secret; see `husk vm unlock list`";
    /// There is one.
    VmExists = 409, "vm_exists", "the tenant has such a VM already";
    /// There is one.
    ResourceExists = 409, "resource_exists", "the VM has such a resource already; replace it with --replace";
    /// There is one.
    UnlockExists = 409, "unlock_exists", "the VM's guest has such a secret already; replace it with --replace";
    /// No room.
    Full = 409, "full", "there are as many as a tenant may have by its own requests; remove a resource or a secret, or have the broker's operator enrol the VM";
    /// Too long.
    TooLong = 413, "too_long", "a resource has 4096 bytes at most, a guest's secret 1024";
    /// Too many requests.
    TooMany = 429, "too_many", "the tenant asked more often than it may; ask again in a minute";
    /// The broker failed.
    Unavailable = 503, "unavailable", "the broker cannot answer now; ask again, and if it goes on, have its operator read its log";
}

impl Failure {
    /// The failure of that word.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|failure| failure.word() == word)
    }
}

#[cfg(test)]
mod tests {
    use super::{Request, Right};
    use husk::release::ticket::TicketOrder;

    #[test]
    fn a_right_is_no_order() {
        let orders = TicketOrder::ALL.iter().fold(0, |bits, order| bits | order.bit());
        for (word, right) in Right::ALL {
            assert_eq!(right.bit() & orders, 0, "{word}");
        }
    }

    #[test]
    fn a_request_is_read_whole_or_not_at_all() {
        let vm = "00112233445566778899aabbccddeeff";
        for good in [
            r#"{"tenant":{}}"#.to_owned(),
            r#"{"vms":{"after":null}}"#.to_owned(),
            format!(r#"{{"vm":{{"vm":"{vm}"}}}}"#),
        ] {
            assert!(serde_json::from_str::<Request>(&good).is_ok(), "{good}");
        }
        for bad in [
            r#"{"vms":{"after":null,"tenant":"x"}}"#.to_owned(),
            r#"{"vms":{"after":null},"vm":{}}"#.to_owned(),
            r#"{"halt":{}}"#.to_owned(),
            format!(r#"{{"vm":{{"vm":"{vm}00"}}}}"#),
            r#"{"audit":{"after":-1}}"#.to_owned(),
            String::new(),
        ] {
            assert!(serde_json::from_str::<Request>(&bad).is_err(), "{bad}");
        }
    }
}
