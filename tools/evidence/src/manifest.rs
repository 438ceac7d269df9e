//! Services manifests, read as `frontend/svsm/manifest.md` of the component describes them.
//!
//! **What.** [`Manifest::parse`] tells the three forms apart: the table of all services, the vTPM's version 0, the vTPM's version 1.
//! [`report_data`] is what a report over a manifest must carry.
//! **Trust.** None: a manifest means something only under a report that covers it ([`Verified::covers`](crate::Verified::covers)).
//! **Laws.** One state has one encoding; what deviates is refused. Nothing is skipped, so every byte is either refused when it
//! changes or changes what is said.
//! **Not here.** What a relying party demands of tenant, mode or sequence.

use crate::{EndorsementPublic, EvidenceError};
use husk::engine::EndorsementKey;
use husk::frontend::svsm::{HEADER_GUID, KEYS, ManifestHeader, ManifestKey, Persistence, Serving, VTPM_GUID};
use sha2::{Digest, Sha512};
use zerocopy::FromBytes;

/// The longest manifest that is looked at, in bytes.
const MANIFEST_BYTES_MAX: usize = 64 * 1024;
/// Head and entries of a table have this size.
const ENTRY_BYTES: usize = 24;

/// What the vTPM's service of one SVSM says, and what other services say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Manifest {
    /// The table of all services.
    Services(Vec<Service>),
    /// The vTPM's version 0: the RSA-2048 endorsement key.
    Version0(EndorsementPublic),
    /// The vTPM's version 1, as Husk writes it.
    Version1(Box<VtpmManifest>),
}

/// An entry of the table of all services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The service's GUID as it lies in memory.
    pub guid: [u8; 16],
    /// What it says; of the vTPM read, of others only carried.
    pub content: ServiceContent,
}

/// What a service says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServiceContent {
    /// The vTPM's endorsement key.
    Vtpm(EndorsementPublic),
    /// The manifest of a service that is not known here.
    Other(Vec<u8>),
}

/// The manifest of version 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VtpmManifest {
    /// What protects the state.
    pub persistence: Persistence,
    /// What keeps a second instance from answering.
    pub serving: Serving,
    /// Whether a key of a CoCo KBS is an input of the state's key.
    pub kbs_required: bool,
    /// The tenant.
    pub tenant: [u8; 16],
    /// The VM.
    pub vm: [u8; 16],
    /// Raised by each operator restore.
    pub generation: u32,
    /// One for each launch.
    pub epoch: u64,
    /// The fencing token of the instance that answered.
    pub token: u64,
    /// The number of the newest durable commit.
    pub sequence: u64,
    /// The digest of the chain of commits.
    pub digest: [u8; 48],
    /// The engine's fingerprint, without its padding.
    pub engine: String,
    /// RSA-2048, P-256, P-384.
    pub keys: [EndorsementPublic; KEYS],
}

impl Manifest {
    /// Reads any of the three forms.
    ///
    /// # Errors
    /// [`EvidenceError::BadManifest`].
    pub fn parse(bytes: &[u8]) -> Result<Self, EvidenceError> {
        if bytes.len() > MANIFEST_BYTES_MAX {
            return Err(EvidenceError::BadManifest("it is longer than any manifest"));
        }
        if bytes.starts_with(&HEADER_GUID) {
            return services(bytes).map(Self::Services);
        }
        if bytes.starts_with(&ManifestHeader::MAGIC) {
            return version_1(bytes).map(|manifest| Self::Version1(Box::new(manifest)));
        }
        EndorsementPublic::parse(EndorsementKey::Rsa2048, bytes).map(Self::Version0)
    }
}

/// REPORT_DATA of the report over `manifest` for `nonce`: SHA-512 of both (AMD 58019, section 7).
#[must_use]
pub fn report_data(nonce: &[u8; 64], manifest: &[u8]) -> [u8; 64] {
    Sha512::new().chain_update(nonce).chain_update(manifest).finalize().into()
}

fn services(bytes: &[u8]) -> Result<Vec<Service>, EvidenceError> {
    let bad = EvidenceError::BadManifest;
    let word = |at: usize| {
        let field = bytes.get(at..).and_then(|rest| rest.first_chunk());
        field.map(|field| u32::from_le_bytes(*field)).and_then(|number| usize::try_from(number).ok())
    };
    if word(0x10) != Some(bytes.len()) {
        return Err(bad("the table's size is not the manifest's"));
    }
    let entries = word(0x14).filter(|entries| *entries <= bytes.len() / ENTRY_BYTES);
    let entries = entries.ok_or(bad("the table has more entries than room"))?;
    let mut end = ENTRY_BYTES * (1 + entries);
    let mut found: Vec<Service> = Vec::new();
    for at in (1..=entries).map(|entry| entry * ENTRY_BYTES) {
        let guid = bytes.get(at..).and_then(|rest| rest.first_chunk());
        let guid = *guid.ok_or(bad("the table ends within its entries"))?;
        let (offset, length) =
            (word(at + 16), word(at + 20).ok_or(bad("the table ends within its entries"))?);
        if offset != Some(end) {
            return Err(bad("an entry does not begin where the one before it ends"));
        }
        let blob = bytes.get(end..).and_then(|rest| rest.get(..length));
        let blob = blob.ok_or(bad("an entry ends behind the table"))?;
        end += length;
        if found.iter().any(|service| service.guid == guid) {
            return Err(bad("the table has a service twice"));
        }
        found.push(Service { guid, content: content(guid, blob)? });
    }
    if end == bytes.len() { Ok(found) } else { Err(bad("something follows the last entry")) }
}

fn content(guid: [u8; 16], blob: &[u8]) -> Result<ServiceContent, EvidenceError> {
    if guid == VTPM_GUID {
        EndorsementPublic::parse(EndorsementKey::Rsa2048, blob).map(ServiceContent::Vtpm)
    } else {
        Ok(ServiceContent::Other(blob.to_vec()))
    }
}

fn version_1(bytes: &[u8]) -> Result<VtpmManifest, EvidenceError> {
    let bad = EvidenceError::BadManifest;
    let short = bad("it ends within its header");
    let (header, rest) = ManifestHeader::ref_from_prefix(bytes).map_err(|_| short.clone())?;
    let (entries, _) = <[ManifestKey; KEYS]>::ref_from_prefix(rest).map_err(|_| short)?;
    if usize::try_from(header.bytes.get()) != Ok(bytes.len()) {
        return Err(bad("its size is not what it says"));
    }
    if usize::from(header.keys) != KEYS || header.reserved.get() != 0 || !has_its_head(header) {
        return Err(bad("it has a field out of its range"));
    }
    let (persistence, serving) = modes(header).ok_or(bad("it names modes that do not exist"))?;
    Ok(VtpmManifest {
        persistence,
        serving,
        kbs_required: header.kbs == 1,
        tenant: header.tenant,
        vm: header.vm,
        generation: header.generation.get(),
        epoch: header.epoch.get(),
        token: header.token.get(),
        sequence: header.sequence.get(),
        digest: header.digest,
        engine: engine(&header.engine).ok_or(bad("the engine's fingerprint is not ASCII"))?,
        keys: keys(bytes, entries)?,
    })
}

/// A state has its place in the chain of commits, and where none is kept there is none.
fn has_its_head(header: &ManifestHeader) -> bool {
    let (epoch, sequence) = (header.epoch.get(), header.sequence.get());
    if header.persistence == Persistence::Ephemeral as u8 {
        (epoch, sequence, header.digest) == (0, 0, [0; 48])
    } else {
        sequence != 0
    }
}

/// The modes, if they exist and go together: a state that is unsealed has nobody who keeps a second instance away.
fn modes(header: &ManifestHeader) -> Option<(Persistence, Serving)> {
    let persistence = Persistence::from_number(header.persistence)?;
    let serving = Serving::from_number(header.serving)?;
    let goes_with = match persistence {
        Persistence::Strict | Persistence::Ephemeral => serving != Serving::Nothing,
        Persistence::Bounded => serving == Serving::Lease,
        Persistence::HwSealed | Persistence::UnsealedForTesting => serving == Serving::Nothing,
    };
    (header.kbs <= 1 && goes_with).then_some((persistence, serving))
}

fn engine(field: &[u8; 32]) -> Option<String> {
    let text: String = field.iter().take_while(|byte| **byte != 0).map(|byte| char::from(*byte)).collect();
    let printable = text.chars().all(|character| character.is_ascii_graphic() || character == ' ');
    let padded = field[text.len().min(field.len())..].iter().all(|byte| *byte == 0);
    (printable && padded && !text.is_empty()).then_some(text)
}

fn keys(bytes: &[u8], entries: &[ManifestKey; KEYS]) -> Result<[EndorsementPublic; KEYS], EvidenceError> {
    let bad = EvidenceError::BadManifest;
    let mut end = size_of::<ManifestHeader>() + size_of_val(entries);
    let mut take = |at: usize| {
        let (key, entry) = (EndorsementKey::ALL[at], &entries[at]);
        let placed = usize::try_from(entry.offset.get()) == Ok(end);
        if entry.certificate_index.get() != key.certificate_index() || !placed {
            return Err(bad("a key is not where it belongs"));
        }
        let length = usize::try_from(entry.bytes.get()).unwrap_or(usize::MAX);
        let public = bytes.get(end..).and_then(|rest| rest.get(..length));
        end += length;
        EndorsementPublic::parse(key, public.ok_or(bad("a key ends behind the manifest"))?)
    };
    let keys = [take(0)?, take(1)?, take(2)?];
    if end == bytes.len() { Ok(keys) } else { Err(bad("something follows the last key")) }
}
