//! The table of keys.
//!
//! | key | label | inputs | output | user |
//! | --- | --- | --- | --- | --- |
//! | volume salt | `HUSK v1 volume salt` | mode, tenant, VM, generation, epoch | SHA-384 | the next line |
//! | processor salt | `HUSK v1 processor salt` | HOST_DATA | SHA-384 | the next line |
//! | processor key | `HUSK v1 processor` | MSG_KEY's key (chip, VMPL 0, POLICY, MEASUREMENT, where the configuration says so GUEST_SVN, TCB_VERSION); processor salt | 32 bytes | the next line |
//! | KBS key | none | a KBS's envelope of the tenant | 32 bytes | the next line |
//! | volume key | `HUSK v1 volume` | epoch secret, then in modes 5 and 6 the KBS key, then in modes 4 and 6 the processor key; in mode 3 the processor key alone; volume salt | [`VolumeKey`] | the lines below |
//! | checkpoint key | `HUSK v1 checkpoint` | volume key; object salt; token, sequence, previous digest | [`ObjectKey`] | `volume/seal.rs` |
//! | record key | `HUSK v1 record` | volume key; object salt; token, sequence, previous digest | [`ObjectKey`] | `volume/seal.rs` |
//! | suspend salt | `HUSK v1 suspend salt` | mode, tenant, VM, generation, epoch | SHA-384 | the next line |
//! | suspend key | `HUSK v1 suspend` | [`SuspendSecret`]; suspend salt; token, sequence, head digest | [`ObjectKey`] | `volume/suspend.rs` |
//! | backup salt | `HUSK v1 backup salt` | the backup's header | SHA-384 | the next line |
//! | backup part key | `HUSK v1 backup` | [`BackupSecret`](super::BackupSecret), which is random; backup salt; number of the part | [`ObjectKey`] | `volume/backup.rs` |
//! | flash block key | none | random, drawn for one write of one block and kept in the sealed state | [`ObjectKey`] | `volume/blocks.rs` |
//!
//! Extraction and expansion are HKDF-SHA-384 (RFC 5869). Integers are little-endian and of fixed width, labels differ, and no
//! label is the beginning of another with the same inputs, so that no two lines of the table can meet. A further secret is appended
//! to the epoch secret as input key material under a mode of its own, each an AND: a broker's epoch secret is never left out where
//! there is a broker, so that nothing opens by the other key. A suspend secret is random, of one suspension and of one launch: what is sealed under it is nobody's but that
//! launch's, and nothing that is stored or released leads to it.

use crate::release::hw_sealed::{HwSealedKey, ProcessorSecret};
use crate::release::kbs::{KbsInput, KbsSecret};
use crate::release::unsealed::UnsealedKey;
use crate::release::{HEAD_DIGEST_BYTES, Head, ReleasedKey};
use crate::seams::{Entropy, EntropyError};
use crate::secret::Secret;
use core::fmt;
use hkdf::{Hkdf, HkdfExtract, InvalidLength};
use sha2::{Digest, Sha384};

/// Size of an object's salt in bytes.
pub const SALT_BYTES: usize = 32;

/// What protects a volume. The number is stored in every checkpoint and is part of the key's salt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Mode {
    /// Sealed under the broker's epoch secret.
    Sealed = 1,
    /// Readable by anyone: the secret is public. For tests.
    UnsealedForTesting = 2,
    /// Sealed under the processor's key alone: no broker, no protection against rollback.
    HwSealed = 3,
    /// Sealed under the broker's epoch secret and the processor's key.
    SealedOnChip = 4,
    /// Sealed under the broker's epoch secret and the static key of a KBS.
    SealedWithKbs = 5,
    /// Sealed under the broker's epoch secret, the static key of a KBS and the processor's key.
    SealedWithKbsOnChip = 6,
}

impl Mode {
    /// The mode of that number, if there is one.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Sealed),
            2 => Some(Self::UnsealedForTesting),
            3 => Some(Self::HwSealed),
            4 => Some(Self::SealedOnChip),
            5 => Some(Self::SealedWithKbs),
            6 => Some(Self::SealedWithKbsOnChip),
            _ => None,
        }
    }
}

impl Mode {
    /// Whether a broker's secret is among what protects the volume.
    #[must_use]
    pub const fn has_a_broker(self) -> bool {
        match self {
            Self::Sealed | Self::SealedOnChip | Self::SealedWithKbs | Self::SealedWithKbsOnChip => true,
            Self::UnsealedForTesting | Self::HwSealed => false,
        }
    }
}

/// What goes into a sealed volume's key beside the broker's secret, as the launch configuration names it.
#[derive(Clone, Copy, Debug)]
pub struct Further<'s> {
    /// The static key of a KBS, or that none is required.
    pub kbs: &'s KbsInput,
    /// The processor's key.
    pub processor: Option<&'s ProcessorSecret>,
}

/// Whose TPM a volume is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The tenant that the launch configuration names.
    pub tenant: [u8; 16],
    /// The VM that the launch configuration names.
    pub vm: [u8; 16],
    /// Raised by each operator restore.
    pub generation: u32,
}

/// The key of one epoch of one VM's volume.
pub struct VolumeKey {
    mode: Mode,
    identity: Identity,
    epoch: u64,
    key: Secret<32>,
}

impl VolumeKey {
    /// The key of a sealed volume; also under what the launch configuration names beside the broker.
    #[must_use]
    pub fn sealed(released: &ReleasedKey, further: Further<'_>, identity: &Identity) -> Self {
        let (epoch, secret) = (released.epoch(), released.secret());
        let kbs = further.kbs.secret().map(KbsSecret::secret);
        match (kbs, further.processor.map(processor_key)) {
            (None, None) => Self::derive(Mode::Sealed, epoch, &[secret], identity),
            (None, Some(chip)) => Self::derive(Mode::SealedOnChip, epoch, &[secret, &chip], identity),
            (Some(kbs), None) => Self::derive(Mode::SealedWithKbs, epoch, &[secret, kbs], identity),
            (Some(kbs), Some(chip)) => {
                Self::derive(Mode::SealedWithKbsOnChip, epoch, &[secret, kbs, &chip], identity)
            }
        }
    }

    /// The key of a volume that only this chip and image open, and that nobody keeps from being rolled back.
    #[must_use]
    pub fn hw_sealed(key: HwSealedKey<'_>, identity: &Identity) -> Self {
        Self::derive(Mode::HwSealed, key.epoch(), &[&processor_key(key.secret())], identity)
    }

    /// The key of a volume that anyone can read.
    #[must_use]
    pub fn unsealed(public: &UnsealedKey, identity: &Identity) -> Self {
        Self::derive(Mode::UnsealedForTesting, public.epoch(), &[public.secret()], identity)
    }

    fn derive(mode: Mode, epoch: u64, secrets: &[&Secret<32>], identity: &Identity) -> Self {
        let salt = salt(b"HUSK v1 volume salt", mode, identity, epoch);
        let mut extract = HkdfExtract::<Sha384>::new(Some(&salt));
        for secret in secrets {
            secret.with(|secret| extract.input_ikm(secret));
        }
        let (_, expand) = extract.finalize();
        let key = filled(|out| expand.expand(b"HUSK v1 volume", out));
        Self { mode, identity: *identity, epoch, key }
    }

    /// What protects the volume that this key opens.
    #[must_use]
    pub const fn mode(&self) -> Mode {
        self.mode
    }

    /// Whose volume this key opens.
    #[must_use]
    pub const fn identity(&self) -> &Identity {
        &self.identity
    }

    /// The epoch that this key opens.
    #[must_use]
    pub const fn epoch(&self) -> u64 {
        self.epoch
    }

    /// The key of one object, used once.
    #[must_use]
    pub fn object(&self, name: &ObjectName<'_>) -> ObjectKey {
        let label: &[u8] = match name.sort {
            ObjectSort::Checkpoint => b"HUSK v1 checkpoint",
            ObjectSort::Record => b"HUSK v1 record",
        };
        let (token, sequence) = (name.token.to_le_bytes(), name.sequence.to_le_bytes());
        ObjectKey(hkdf(name.salt, &self.key, &[label, &token, &sequence, name.previous]))
    }
}

impl fmt::Debug for VolumeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "VolumeKey({:?}, epoch {})", self.mode, self.epoch)
    }
}

/// The secret of one suspension: drawn for it, kept in the launch's own memory, gone with its first use.
#[derive(Debug)]
pub struct SuspendSecret(Secret<32>);

impl SuspendSecret {
    /// A fresh one.
    ///
    /// # Errors
    /// [`EntropyError`]; there is no secret then.
    pub fn draw(entropy: &mut dyn Entropy) -> Result<Self, EntropyError> {
        Secret::try_fill(|bytes| entropy.fill(bytes)).map(Self)
    }

    /// The key of the one state that is sealed under this secret, for the TPM whose volume `volume` opens, at the head `at`
    /// under `token`.
    #[must_use]
    pub fn key(&self, volume: &VolumeKey, token: u64, at: &Head) -> ObjectKey {
        let salt = salt(b"HUSK v1 suspend salt", volume.mode, &volume.identity, volume.epoch);
        let (token, sequence) = (token.to_le_bytes(), at.sequence.to_le_bytes());
        ObjectKey(hkdf(&salt, &self.0, &[b"HUSK v1 suspend", &token, &sequence, &at.digest]))
    }
}

/// Which of the two kinds of objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ObjectSort {
    /// A whole state.
    Checkpoint,
    /// A change.
    Record,
}

/// What makes one object's key its own.
#[derive(Clone, Copy, Debug)]
pub struct ObjectName<'n> {
    /// Checkpoint or record.
    pub sort: ObjectSort,
    /// Fresh random bytes, stored in the object's header.
    pub salt: &'n [u8; SALT_BYTES],
    /// The fencing token of who wrote it.
    pub token: u64,
    /// The commit's number.
    pub sequence: u64,
    /// The head digest before it.
    pub previous: &'n [u8; HEAD_DIGEST_BYTES],
}

/// The AES-256 key of one object.
#[derive(Debug)]
pub struct ObjectKey(pub(super) Secret<32>);

impl ObjectKey {
    /// The key, for the cipher alone.
    #[must_use]
    pub const fn secret(&self) -> &Secret<32> {
        &self.0
    }
}

/// Binds a key to one epoch of one VM in one mode.
fn salt(label: &[u8], mode: Mode, identity: &Identity, epoch: u64) -> [u8; 48] {
    Sha384::new()
        .chain_update(label)
        .chain_update([mode as u8])
        .chain_update(identity.tenant)
        .chain_update(identity.vm)
        .chain_update(identity.generation.to_le_bytes())
        .chain_update(epoch.to_le_bytes())
        .finalize()
        .into()
}

/// Binds what the processor derived to the launch configuration, which it cannot mix in itself.
fn processor_key(processor: &ProcessorSecret) -> Secret<32> {
    let salt =
        Sha384::new().chain_update(b"HUSK v1 processor salt").chain_update(processor.host_data()).finalize();
    hkdf(&salt, processor.secret(), &[b"HUSK v1 processor"])
}

pub(super) fn hkdf(salt: &[u8], input: &Secret<32>, info: &[&[u8]]) -> Secret<32> {
    input.with(|input| filled(|out| Hkdf::<Sha384>::new(Some(salt), input).expand_multi_info(info, out)))
}

/// An HKDF-SHA-384 of 32 bytes, which is less than the 255 blocks that RFC 5869 allows: expansion cannot fail, and a key
/// that was not filled would be refused by every tag.
fn filled(expand: impl FnOnce(&mut [u8; 32]) -> Result<(), InvalidLength>) -> Secret<32> {
    match Secret::try_fill(expand) {
        Ok(key) => key,
        Err(InvalidLength) => Secret::take(&mut [0; 32]),
    }
}

#[cfg(test)]
mod tests {
    use super::{Identity, Mode, ObjectName, ObjectSort, SuspendSecret, VolumeKey};
    use crate::release::Head;
    use crate::release::unsealed::Unsealed;
    use crate::seams::{Disk, DiskError, Geometry};
    use crate::secret::Secret;
    use crate::volume::{STATE_BYTES_MAX, Volume, VolumeFault, Wanted, Workspace, newest_unsealed_head};
    use std::boxed::Box;
    use std::collections::BTreeSet;
    use std::vec::Vec;

    extern crate std;

    const IDENTITY: Identity = Identity { tenant: [1; 16], vm: [2; 16], generation: 3 };

    fn bytes(key: &Secret<32>) -> Vec<u8> {
        key.with(|key| key.to_vec())
    }

    #[test]
    fn every_input_changes_the_volume_key() {
        let inputs = [
            (Mode::Sealed, 1, [0; 32], IDENTITY),
            (Mode::UnsealedForTesting, 1, [0; 32], IDENTITY),
            (Mode::HwSealed, 1, [0; 32], IDENTITY),
            (Mode::SealedOnChip, 1, [0; 32], IDENTITY),
            (Mode::SealedWithKbs, 1, [0; 32], IDENTITY),
            (Mode::SealedWithKbsOnChip, 1, [0; 32], IDENTITY),
            (Mode::Sealed, 1 << 32, [0; 32], IDENTITY),
            (Mode::Sealed, 1, [1; 32], IDENTITY),
            (Mode::Sealed, 1, [0; 32], Identity { tenant: [9; 16], ..IDENTITY }),
            (Mode::Sealed, 1, [0; 32], Identity { vm: [9; 16], ..IDENTITY }),
            (Mode::Sealed, 1, [0; 32], Identity { tenant: IDENTITY.vm, vm: IDENTITY.tenant, generation: 3 }),
            (Mode::Sealed, 1, [0; 32], Identity { generation: 9, ..IDENTITY }),
        ];
        let derived = inputs.map(|(mode, epoch, mut secret, identity)| {
            bytes(&VolumeKey::derive(mode, epoch, &[&Secret::take(&mut secret)], &identity).key)
        });
        assert_eq!(derived.iter().collect::<BTreeSet<_>>().len(), inputs.len());
    }

    /// Which of the broker's and the chip's secret go into a key.
    type Inputs = for<'s> fn([&'s Secret<32>; 2]) -> Vec<&'s Secret<32>>;

    /// Whether the key of a volume under both secrets opens without one of them, where `inputs` go in.
    fn opens_without_one(inputs: Inputs) -> bool {
        let [broker, chip, other] = [1, 2, 3].map(|byte| Secret::take(&mut [byte; 32]));
        let key = |pair| {
            let key = VolumeKey::derive(Mode::SealedOnChip, 1, &inputs(pair), &IDENTITY);
            bytes(&key.key)
        };
        let both = key([&broker, &chip]);
        both == key([&other, &chip]) || both == key([&broker, &other])
    }

    /// Amendment 15: the epoch's secret is always an input, and so is each further one.
    #[test]
    fn every_mutant_that_leaves_a_secret_out_of_the_volume_key_is_found() {
        assert!(!opens_without_one(|pair| pair.to_vec()));
        let mutants: [Inputs; 3] =
            [|[_, chip]| [chip].to_vec(), |[broker, _]| [broker].to_vec(), |_| Vec::new()];
        for mutant in mutants {
            assert!(opens_without_one(mutant), "nobody noticed");
        }
    }

    /// Each secret is an AND, in its own place.
    #[test]
    fn every_secret_changes_the_volume_key() {
        let secrets = [[1; 32], [2; 32], [3; 32]].map(|mut secret| Secret::take(&mut secret));
        let [epoch, kbs, chip] = &secrets;
        let sets: [&[&Secret<32>]; 6] =
            [&[epoch], &[epoch, kbs], &[epoch, chip], &[epoch, kbs, chip], &[epoch, chip, kbs], &[kbs]];
        let derived =
            sets.map(|set| bytes(&VolumeKey::derive(Mode::SealedWithKbsOnChip, 1, set, &IDENTITY).key));
        assert_eq!(derived.iter().collect::<BTreeSet<_>>().len(), sets.len());
    }

    /// How many keys there are for names that differ in one input each, where `forgets` forgets some, and how many names.
    fn object_keys(forgets: for<'n> fn(ObjectName<'n>) -> ObjectName<'n>) -> (usize, usize) {
        let key = VolumeKey::unsealed(&Unsealed::for_testing().key(1), &IDENTITY);
        let (salt, previous) = ([7; 32], [8; 48]);
        let name =
            ObjectName { sort: ObjectSort::Record, salt: &salt, token: 1, sequence: 2, previous: &previous };
        let names = [
            name,
            ObjectName { sort: ObjectSort::Checkpoint, ..name },
            ObjectName { salt: &[9; 32], ..name },
            ObjectName { token: 2, ..name },
            ObjectName { sequence: 1, ..name },
            ObjectName { previous: &[9; 48], ..name },
        ];
        let keys: BTreeSet<_> =
            names.iter().map(|name| bytes(key.object(&forgets(*name)).secret())).collect();
        (keys.len(), names.len())
    }

    #[test]
    fn every_input_changes_the_object_key() {
        let (keys, names) = object_keys(|name| name);
        assert_eq!(keys, names);
    }

    #[test]
    fn every_mutant_that_forgets_an_input_of_the_object_key_is_found() {
        let mutants: [for<'n> fn(ObjectName<'n>) -> ObjectName<'n>; 5] = [
            |name| ObjectName { sort: ObjectSort::Record, ..name },
            |name| ObjectName { salt: &[0; 32], ..name },
            |name| ObjectName { token: 0, ..name },
            |name| ObjectName { sequence: 0, ..name },
            |name| ObjectName { previous: &[0; 48], ..name },
        ];
        for mutant in mutants {
            let (keys, names) = object_keys(mutant);
            assert!(keys < names, "nobody noticed");
        }
    }

    #[test]
    fn every_input_changes_the_suspend_key() {
        let secret = |byte| SuspendSecret(Secret::take(&mut [byte; 32]));
        let volume = |epoch, identity| VolumeKey::unsealed(&Unsealed::for_testing().key(epoch), identity);
        let head = Head { sequence: 1, digest: [2; 48] };
        let (one, two) = (volume(1, &IDENTITY), volume(2, &IDENTITY));
        let other = volume(1, &Identity { generation: 9, ..IDENTITY });
        let keys: BTreeSet<_> = [
            secret(1).key(&one, 1, &head),
            secret(2).key(&one, 1, &head),
            secret(1).key(&two, 1, &head),
            secret(1).key(&other, 1, &head),
            secret(1).key(&one, 2, &head),
            secret(1).key(&one, 1, &Head { sequence: 2, ..head }),
            secret(1).key(&one, 1, &Head { digest: [3; 48], ..head }),
        ]
        .iter()
        .map(|key| bytes(key.secret()))
        .collect();
        assert_eq!(keys.len(), 7);
    }

    /// The golden volume of the test mode, read-only.
    struct Golden(Vec<u8>);

    impl Disk for Golden {
        fn geometry(&self) -> Geometry {
            Geometry { size_bytes: 16 * 1024, block_bytes: 512 }
        }

        fn read(&mut self, offset: u64, into: &mut [u8]) -> Result<(), DiskError> {
            let from = usize::try_from(offset).map_err(|_| DiskError)?;
            into.copy_from_slice(&self.0[from..from + into.len()]);
            Ok(())
        }

        fn write(&mut self, _: u64, _: &[u8]) -> Result<(), DiskError> {
            Err(DiskError)
        }

        fn flush(&mut self) -> Result<(), DiskError> {
            Err(DiskError)
        }
    }

    #[test]
    fn a_test_volume_never_opens_as_a_sealed_one_even_if_its_header_is_rewritten() {
        let mut disk = Golden(include_bytes!("../../tests/data/volume-unsealed-512.bin").to_vec());
        let identity = Identity { tenant: *b"tenant of a test", vm: *b"the VM of a test", generation: 1 };
        let (mut work, mut state) = (Box::new(Workspace::new()), Box::new([0; STATE_BYTES_MAX]));
        let public = Unsealed::for_testing();
        let newest = newest_unsealed_head(&mut disk, &public, &identity, &mut work, &mut state);
        let Ok(Some(newest)) = newest else { panic!() };
        // The worst case: a broker whose secret is the public one.
        let sealed =
            VolumeKey::derive(Mode::Sealed, newest.epoch, &[public.key(newest.epoch).secret()], &identity);
        let mut open = |disk: &mut Golden| {
            Volume::open(disk, &sealed, &Wanted::exactly(newest.head), &mut work, &mut state).err()
        };
        assert_eq!(open(&mut disk), Some(VolumeFault::Unsealed));
        for area in [0, 8192] {
            disk.0[area + 10] = Mode::Sealed as u8;
        }
        assert_eq!(open(&mut disk), Some(VolumeFault::Damaged));
    }
}
