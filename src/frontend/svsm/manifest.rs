//! The services manifests: the encoder of `manifest.md`.

use super::Attested;
use crate::engine::{ENDORSEMENT_BYTES_MAX, EndorsementKey, Fingerprint};
use crate::fault::Fault;
use crate::frontend::FrontendFault;
use crate::keys::Identity;
use crate::release::Head;
use core::mem::offset_of;
use zerocopy::byteorder::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The largest manifest in bytes.
pub const MANIFEST_BYTES_MAX: usize = 1024;
/// The GUID of the table of all services, 63849ebb-3d92-4670-a1ff-58f9c94b87bb, as it lies in memory.
pub const HEADER_GUID: [u8; 16] =
    [0xBB, 0x9E, 0x84, 0x63, 0x92, 0x3D, 0x70, 0x46, 0xA1, 0xFF, 0x58, 0xF9, 0xC9, 0x4B, 0x87, 0xBB];
/// The GUID of the vTPM service, c476f1eb-0123-45a5-9641-b4e7dde5bfe3, as it lies in memory.
pub const VTPM_GUID: [u8; 16] =
    [0xEB, 0xF1, 0x76, 0xC4, 0x23, 0x01, 0xA5, 0x45, 0x96, 0x41, 0xB4, 0xE7, 0xDD, 0xE5, 0xBF, 0xE3];
/// Number of keys in a manifest of version 1.
pub const KEYS: usize = EndorsementKey::ALL.len();

/// First bytes of a manifest of version 1.
const MAGIC: [u8; 8] = *b"HUSKSM\0\x01";

macro_rules! numbers {
    ($($(#[$doc:meta])* pub enum $name:ident { $($(#[$vdoc:meta])* $variant:ident = $number:literal,)+ })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum $name { $($(#[$vdoc])* $variant = $number,)+ }
        impl $name {
            /// The value of that number, if there is one.
            #[must_use]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$variant),)+ _ => None }
            }
        }
    )+};
}

numbers! {
    /// What protects the state.
    pub enum Persistence {
        /// Sealed, every commit anchored at the broker.
        Strict = 1,
        /// Sealed under a key of the processor alone; no protection against rollback.
        HwSealed = 2,
        /// Sealed, commits anchored at the broker; the newest of those that may be stale can be lost at every boot.
        Bounded = 3,
        /// There is none: the TPM was made for this launch, and ends with it.
        Ephemeral = 4,
        /// Readable by anyone.
        UnsealedForTesting = 255,
    }

    /// What keeps a second instance from answering.
    pub enum Serving {
        /// Nothing, and nobody says so: only where there is no broker, [`Persistence::HwSealed`] and [`Persistence::UnsealedForTesting`].
        Nothing = 0,
        /// A lease on a trusted clock.
        Lease = 1,
        /// The broker permits each command.
        PerCommand = 2,
        /// It shows in resetCount only.
        Detect = 3,
    }
}

/// Who a TPM is and which state it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// What protects the state.
    pub persistence: Persistence,
    /// What keeps a second instance from answering.
    pub serving: Serving,
    /// Whether a key of a CoCo KBS is an input of the state's key.
    pub kbs_required: bool,
    /// Tenant, VM and generation.
    pub identity: Identity,
    /// The epoch under which the newest state is sealed.
    pub epoch: u64,
    /// The fencing token of this instance.
    pub token: u64,
    /// The newest durable state.
    pub head: Head,
    /// The engine.
    pub engine: Fingerprint,
}

/// Head of a manifest of version 1; the keys' entries follow, then the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ManifestHeader {
    /// 0x00 [`MAGIC`](Self::MAGIC).
    pub magic: [u8; 8],
    /// 0x08 size of the whole.
    pub bytes: U32,
    /// 0x0C a [`Persistence`].
    pub persistence: u8,
    /// 0x0D a [`Serving`].
    pub serving: u8,
    /// 0x0E 1 if a KBS key is required.
    pub kbs: u8,
    /// 0x0F number of keys.
    pub keys: u8,
    /// 0x10
    pub tenant: [u8; 16],
    /// 0x20
    pub vm: [u8; 16],
    /// 0x30
    pub generation: U32,
    /// 0x34 zero.
    pub reserved: U32,
    /// 0x38
    pub epoch: U64,
    /// 0x40
    pub token: U64,
    /// 0x48
    pub sequence: U64,
    /// 0x50
    pub digest: [u8; 48],
    /// 0x80
    pub engine: [u8; 32],
}

impl ManifestHeader {
    /// First bytes of a manifest of version 1.
    pub const MAGIC: [u8; 8] = MAGIC;
}

const _: () = {
    assert!(offset_of!(ManifestHeader, bytes) == 0x08 && offset_of!(ManifestHeader, persistence) == 0x0C);
    assert!(offset_of!(ManifestHeader, serving) == 0x0D && offset_of!(ManifestHeader, kbs) == 0x0E);
    assert!(offset_of!(ManifestHeader, keys) == 0x0F && offset_of!(ManifestHeader, reserved) == 0x34);
    assert!(offset_of!(ManifestHeader, tenant) == 0x10 && offset_of!(ManifestHeader, vm) == 0x20);
    assert!(offset_of!(ManifestHeader, generation) == 0x30 && offset_of!(ManifestHeader, epoch) == 0x38);
    assert!(offset_of!(ManifestHeader, token) == 0x40 && offset_of!(ManifestHeader, sequence) == 0x48);
    assert!(offset_of!(ManifestHeader, digest) == 0x50 && offset_of!(ManifestHeader, engine) == 0x80);
    assert!(size_of::<ManifestHeader>() == 0xA0 && size_of::<ManifestKey>() == 12);
    assert!(size_of::<Table>() == 0x30);
    assert!(size_of::<ManifestHeader>() + KEYS * (12 + ENDORSEMENT_BYTES_MAX) <= 2 * MANIFEST_BYTES_MAX);
};

/// Where a key lies in a manifest of version 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub struct ManifestKey {
    /// [`EndorsementKey::certificate_index`].
    pub certificate_index: U32,
    /// From the start of the manifest.
    pub offset: U32,
    /// Size of the TPMT_PUBLIC.
    pub bytes: U32,
}

/// The table of all services, with the one entry that there is (58019, table 12).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Table {
    guid: [u8; 16],
    bytes: U32,
    entries: U32,
    service: [u8; 16],
    offset: U32,
    service_bytes: U32,
}

/// Which manifest a call asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// The table of all services.
    All,
    /// The vTPM's, version 0.
    Version0,
    /// The vTPM's, version 1.
    Version1,
}

/// Writes the manifest and returns its length in bytes.
pub(super) fn write(
    form: Form,
    tpm: &mut dyn Attested,
    into: &mut [u8; MANIFEST_BYTES_MAX],
) -> Result<usize, Fault> {
    match form {
        Form::Version0 => tpm.endorsement_key(EndorsementKey::Rsa2048, into),
        Form::All => write_table(tpm, into),
        Form::Version1 => write_version_1(tpm, into),
    }
}

fn write_table(tpm: &mut dyn Attested, into: &mut [u8; MANIFEST_BYTES_MAX]) -> Result<usize, Fault> {
    let (head, rest) = into.split_at_mut(size_of::<Table>());
    let bytes = tpm.endorsement_key(EndorsementKey::Rsa2048, rest)?;
    let table = Table {
        guid: HEADER_GUID,
        bytes: number(head.len() + bytes)?,
        entries: U32::new(1),
        service: VTPM_GUID,
        offset: number(head.len())?,
        service_bytes: number(bytes)?,
    };
    head.copy_from_slice(table.as_bytes());
    Ok(head.len() + bytes)
}

fn write_version_1(tpm: &mut dyn Attested, into: &mut [u8; MANIFEST_BYTES_MAX]) -> Result<usize, Fault> {
    let facts = tpm.facts()?;
    let mut entries =
        [ManifestKey { certificate_index: U32::ZERO, offset: U32::ZERO, bytes: U32::ZERO }; KEYS];
    let mut end = size_of::<ManifestHeader>() + size_of_val(&entries);
    for (key, entry) in EndorsementKey::ALL.into_iter().zip(&mut entries) {
        let bytes = tpm.endorsement_key(key, into.get_mut(end..).unwrap_or_default())?;
        *entry = ManifestKey {
            certificate_index: U32::new(key.certificate_index()),
            offset: number(end)?,
            bytes: number(bytes)?,
        };
        end += bytes;
    }
    let header = header(&facts, number(end)?);
    let (head, rest) = into.split_at_mut(size_of::<ManifestHeader>());
    head.copy_from_slice(header.as_bytes());
    rest[..size_of_val(&entries)].copy_from_slice(entries.as_bytes());
    Ok(end)
}

fn header(facts: &Facts, bytes: U32) -> ManifestHeader {
    ManifestHeader {
        magic: MAGIC,
        bytes,
        persistence: facts.persistence as u8,
        serving: facts.serving as u8,
        kbs: u8::from(facts.kbs_required),
        // The number of an array of three.
        keys: EndorsementKey::P384 as u8 + 1,
        tenant: facts.identity.tenant,
        vm: facts.identity.vm,
        generation: U32::new(facts.identity.generation),
        reserved: U32::ZERO,
        epoch: U64::new(facts.epoch),
        token: U64::new(facts.token),
        sequence: U64::new(facts.head.sequence),
        digest: facts.head.digest,
        engine: facts.engine.0,
    }
}

/// A size inside a manifest.
fn number(bytes: usize) -> Result<U32, Fault> {
    let fits = u32::try_from(bytes).ok().filter(|_| bytes <= MANIFEST_BYTES_MAX);
    fits.map(U32::new).ok_or_else(|| FrontendFault::ManifestTooLarge.fault())
}
