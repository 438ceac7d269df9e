//! A TPM that is made here, where its tenant trusts the machine, to be served elsewhere.
//!
//! **What.** [`Prepared::make`] has the engine make a new TPM with a storage root key, tells its public keys, puts certificates for the endorsement keys into it where somebody certifies them, and [`Prepared::sealed`] puts its state
//! into a backup's file, which a RESTORE gives to the VM's first launch (`release/protocol.md`, section 13, rule 9).
//! **Trust.** The machine: whoever sees the memory of this process has every key that the TPM will ever derive.
//! **Laws.** The state leaves sealed to the tenant's recovery key or not at all, and is wiped here. The TPM has served nobody.
//! **Not here.** Who may order what: the tenant's operators, and the broker.

use crate::platform::OsEntropy;
use husk::engine::reference::ReferenceEngine;
use husk::engine::{
    COMMAND_BYTES_MAX, CertifiedEngine as _, Command, ENDORSEMENT_BYTES_MAX, EndorsementKey, Engine as _,
    Locality, Maker, PowerOn, ResponseCode, Start, Written,
};
use husk::fault::Fault;
use husk::keys::BackupSecret;
use husk::nv::NvImage;
use husk::release::ReleaseFault;
use husk::release::backup::BackupHeader;
use husk::release::transcript::AgreementKey;
use husk::volume::STATE_BYTES_MAX;
use husk::volume::backup::Part;
use zerocopy::IntoBytes as _;
use zeroize::Zeroizing;

/// TPM2_Startup(TPM_SU_CLEAR) and TPM2_Shutdown(TPM_SU_CLEAR) (TPM 2.0 part 3, section 9).
const STARTUP: [u8; 12] = [0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x44, 0, 0];
const SHUTDOWN: [u8; 12] = [0x80, 0x01, 0, 0, 0, 12, 0, 0, 0x01, 0x45, 0, 0];
/// TPM_CC_CreatePrimary, TPM_CC_EvictControl, TPM_RH_OWNER (part 2, tables TPM_CC and TPM_RH).
const CREATE_PRIMARY: u32 = 0x0131;
const EVICT_CONTROL: u32 = 0x0120;
const OWNER: u32 = 0x4000_0001;
/// A password session with an empty password: its size, TPM_RS_PW, no nonce, no attribute, no password.
const NO_PASSWORD: [u8; 13] = [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0];
/// Where the storage root key is kept (TCG TPM v2.0 Provisioning Guidance, section 7.8, table 2).
pub const SRK_HANDLE: u32 = 0x8100_0001;
/// TPMT_PUBLIC of an ECC storage root key (the same, section 7.5.1): P-256, SHA-256, AES-128-CFB; fixedTPM, fixedParent, sensitiveDataOrigin,
/// userWithAuth, noDA, restricted, decrypt; no policy, no scheme. Its unique field, two coordinates of 32 zero bytes, follows.
const SRK: [u8; 22] = [
    0x00, 0x23, 0x00, 0x0B, 0x00, 0x03, 0x04, 0x72, 0, 0, 0x00, 0x06, 0x00, 0x80, 0x00, 0x43, 0x00, 0x10,
    0x00, 0x03, 0x00, 0x10,
];
const COORDINATE: [u8; 34] = {
    let mut sized = [0; 34];
    sized[1] = 32;
    sized
};
/// How often a command is sent that is to be sent again.
const TRIES: usize = 4;
/// Where a response of TPM2_CreatePrimary has the handle, and where its public area (TPM2B_PUBLIC).
const HANDLE_AT: usize = 10;
const PUBLIC_AT: usize = 18;

/// Why no TPM was made.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// The process has one already.
    #[error("this process has a TPM already")]
    Taken,
    /// The engine or the entropy failed.
    #[error(transparent)]
    Fault(#[from] Fault),
    /// The TPM answered with a code.
    #[error(
        "the new TPM refused command {command:#x} with code {code:#x}; the engine is of another version than expected"
    )]
    Refused {
        /// TPM_CC.
        command: u32,
        /// TPM_RC.
        code: u32,
    },
    /// The TPM answered with something else than a response.
    #[error("the new TPM's response is none; the engine is of another version than expected")]
    Response,
    /// Nobody certified its endorsement keys.
    #[error("the endorsement keys are not certified: {0}")]
    Uncertified(Box<dyn std::error::Error + Send + Sync>),
    /// The certificates found no room.
    #[error(
        "the endorsement keys' certificates found no room in the new TPM; the engine is of another version than expected"
    )]
    NoRoom,
}

/// Who certifies the endorsement keys, each a TPMT_PUBLIC, of a TPM by that maker; DER of those that it certifies.
pub type Certify<'c> = &'c mut dyn FnMut(Maker, &[(EndorsementKey, Vec<u8>)]) -> Certified;
/// What comes of that.
pub type Certified = Result<Vec<(EndorsementKey, Vec<u8>)>, Box<dyn std::error::Error + Send + Sync>>;

/// A TPM that has served nobody.
#[expect(missing_debug_implementations, reason = "it holds the TPM's secrets")]
pub struct Prepared {
    state: Zeroizing<Vec<u8>>,
    fingerprint: [u8; 32],
    /// Its public keys by name, each a TPM2B_PUBLIC: the storage root key, and the endorsement keys.
    pub keys: Vec<(&'static str, Vec<u8>)>,
    /// The certificates that are in it, DER, by the name of the key.
    pub certificates: Vec<(&'static str, Vec<u8>)>,
}

impl Prepared {
    /// Makes a TPM; with certificates for its endorsement keys, where somebody certifies them.
    ///
    /// # Errors
    /// [`PrepareError`].
    pub fn make(certify: Option<Certify<'_>>) -> Result<Self, PrepareError> {
        let engine = ReferenceEngine::claim(OsEntropy::draw).ok_or(PrepareError::Taken)?;
        let mut durable = Zeroizing::new([0; STATE_BYTES_MAX]);
        let mut current = Zeroizing::new([0; STATE_BYTES_MAX]);
        let mut bench = Bench { engine, nv: NvImage::new(&mut durable, &mut current) };
        let mut keys = vec![("srk", bench.furnished()?)];
        let endorsement = bench.endorsement_keys()?;
        let issued = certify.map_or(Ok(Vec::new()), |certify| bench.certified(&endorsement, certify))?;
        for (key, public) in endorsement {
            keys.push((name(key), with_size(&public)?));
        }
        let mut envelope = bench.nv.envelope();
        envelope.owe_banks();
        bench.nv.store_envelope(&envelope);
        let state = Zeroizing::new(bench.nv.current().to_vec());
        let certificates = issued.into_iter().map(|(key, der)| (name(key), der)).collect();
        Ok(Self { state, fingerprint: bench.engine.fingerprint().0, keys, certificates })
    }

    /// A backup's file with this TPM in it, of that tenant and VM and under that id, which `recovery` alone opens.
    ///
    /// # Errors
    /// [`PrepareError::Fault`].
    pub fn sealed(
        &self,
        names: ([u8; 16], [u8; 16]),
        id: [u8; 16],
        recovery: &AgreementKey,
    ) -> Result<Vec<u8>, PrepareError> {
        let secret = BackupSecret::draw(&mut OsEntropy).map_err(|_| Fault::from(ReleaseFault::Entropy))?;
        let mut header = BackupHeader::prepared(names, id, recovery.point());
        header.fingerprint = self.fingerprint;
        let state_bytes = u32::try_from(self.state.len()).map_err(|_| Fault::from(ReleaseFault::Misuse))?;
        header.state_bytes.set(state_bytes);
        secret.seal(&mut header, recovery.point(), &mut OsEntropy).map_err(Fault::from)?;
        let mut file = header.as_bytes().to_vec();
        for number in 1..=header.parts() {
            let part = Part::seal(&secret, &header, number, &self.state).map_err(Fault::from)?;
            file.extend_from_slice(part.bytes());
        }
        Ok(file)
    }
}

/// An engine and its state.
struct Bench<'m> {
    engine: ReferenceEngine,
    nv: NvImage<'m>,
}

impl Bench<'_> {
    /// Makes the TPM, gives it a storage root key, and switches it off in order; that key's public area.
    fn furnished(&mut self) -> Result<Vec<u8>, PrepareError> {
        let facts = PowerOn { start: Start::Manufacture, reset_count: 1, clock_ms_min: 0 };
        self.engine.power_on(&mut self.nv, facts).map_err(Fault::from)?;
        self.send(&STARTUP)?;
        let created = self.send(&create_primary())?;
        let handle = created.get(HANDLE_AT..HANDLE_AT + 4).ok_or(PrepareError::Response)?;
        self.send(&command(EVICT_CONTROL, &[handle], &[&SRK_HANDLE.to_be_bytes()]))?;
        self.send(&SHUTDOWN)?;
        self.engine.power_off();
        let public = created.get(PUBLIC_AT..).and_then(sized).ok_or(PrepareError::Response)?;
        Ok(public.to_vec())
    }

    /// The endorsement keys, each a TPMT_PUBLIC, of a TPM that is off.
    fn endorsement_keys(&mut self) -> Result<Vec<(EndorsementKey, Vec<u8>)>, PrepareError> {
        self.engine.learn_endorsement(&mut self.nv).map_err(Fault::from)?;
        let mut keys = Vec::new();
        for key in EndorsementKey::ALL {
            let mut public = [0; ENDORSEMENT_BYTES_MAX];
            let length = self.engine.endorsement_key(&self.nv, key, &mut public).map_err(Fault::from)?;
            keys.push((key, public.get(..length).ok_or(PrepareError::Response)?.to_vec()));
        }
        Ok(keys)
    }

    /// Has those keys certified, and puts the certificates where a guest looks for them.
    fn certified(
        &mut self,
        keys: &[(EndorsementKey, Vec<u8>)],
        certify: Certify<'_>,
    ) -> Result<Vec<(EndorsementKey, Vec<u8>)>, PrepareError> {
        let maker = self.engine.maker().ok_or(PrepareError::Response)?;
        let issued = certify(maker, keys).map_err(PrepareError::Uncertified)?;
        let certificates = EndorsementKey::ALL
            .map(|key| issued.iter().find(|(one, _)| *one == key).map(|(_, der)| der.as_slice()));
        let facts = PowerOn { start: Start::Load, reset_count: 1, clock_ms_min: 0 };
        match self.engine.write_certificates(&mut self.nv, facts, &certificates).map_err(Fault::from)? {
            Written::All => Ok(issued),
            Written::Refused => Err(PrepareError::NoRoom),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> Result<Vec<u8>, PrepareError> {
        let mut code = ResponseCode::RETRY;
        let command = Command::parse(bytes, Locality::Zero).map_err(Fault::from)?;
        for _ in 0..TRIES {
            let mut response = [0; COMMAND_BYTES_MAX];
            let length = self.engine.execute(&command, &mut self.nv, &mut response).map_err(Fault::from)?;
            let response = response.get(..length).ok_or(PrepareError::Response)?;
            code = ResponseCode::of(response);
            match code {
                ResponseCode::SUCCESS => return Ok(response.to_vec()),
                ResponseCode::RETRY => {}
                _ => break,
            }
        }
        Err(PrepareError::Refused { command: command.code(), code: code.0 })
    }
}

const fn name(key: EndorsementKey) -> &'static str {
    match key {
        EndorsementKey::Rsa2048 => "ek-rsa2048",
        EndorsementKey::P256 => "ek-p256",
        EndorsementKey::P384 => "ek-p384",
    }
}

/// TPM2B_PUBLIC of a TPMT_PUBLIC.
fn with_size(public: &[u8]) -> Result<Vec<u8>, PrepareError> {
    let size = u16::try_from(public.len()).map_err(|_| PrepareError::Response)?;
    Ok([&size.to_be_bytes(), public].concat())
}

/// A sized structure at the beginning of `bytes`, with its size.
fn sized(bytes: &[u8]) -> Option<&[u8]> {
    let size = usize::from(u16::from_be_bytes(*bytes.first_chunk()?));
    bytes.get(..2 + size)
}

/// A command by the owner, whose password is empty: more handles, and parameters.
fn command(code: u32, handles: &[&[u8]], parameters: &[&[u8]]) -> Vec<u8> {
    let body = [&handles.concat()[..], &NO_PASSWORD, &parameters.concat()].concat();
    // TPM_ST_SESSIONS, the size, the code, the owner.
    let size = u32::try_from(body.len() + 14).unwrap_or(u32::MAX);
    let head = [&[0x80, 0x02][..], &size.to_be_bytes(), &code.to_be_bytes(), &OWNER.to_be_bytes()];
    [&head.concat()[..], &body].concat()
}

fn create_primary() -> Vec<u8> {
    let public = [&SRK[..], &COORDINATE, &COORDINATE].concat();
    let size = u16::try_from(public.len()).unwrap_or(u16::MAX);
    // TPM2B_SENSITIVE_CREATE with an empty password and no data; no outside information, no PCR.
    command(CREATE_PRIMARY, &[], &[&[0, 4, 0, 0, 0, 0], &size.to_be_bytes(), &public, &[0; 6]])
}

#[cfg(test)]
mod tests {
    use super::{Prepared, SRK};
    use husk::keys::BackupSecret;
    use husk::nv::Envelope;
    use husk::release::backup::BackupHeader;
    use husk::release::transcript::AgreementKey;
    use husk::release::wire::BACKUP_PART_BYTES_MAX;
    use husk::volume::backup::open_part;

    #[test]
    fn a_prepared_tpm_has_its_keys_and_opens_for_the_recovery_key_alone() {
        let prepared = Prepared::make(None).expect("a TPM");
        let names: Vec<&str> = prepared.keys.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["srk", "ek-rsa2048", "ek-p256", "ek-p384"]);
        let (_, srk) = &prepared.keys[0];
        assert_eq!((srk.len(), &srk[2..24]), (92, &SRK[..]));
        let mut entropy = crate::platform::OsEntropy;
        let [recovery, other] = [(); 2].map(|()| AgreementKey::generate(&mut entropy).expect("a key"));
        let file = prepared.sealed(([1; 16], [2; 16]), [3; 16], &recovery).expect("it is sealed");
        let (header, parts) = BackupHeader::read(&file).expect("a backup");
        assert!(header.is_prepared() && BackupSecret::open(&header, &other).is_none());
        assert_eq!((header.tenant, header.vm, header.id), ([1; 16], [2; 16], [3; 16]));
        assert_eq!(header.total_bytes(), file.len() as u64);
        let secret = BackupSecret::open(&header, &recovery).expect("it opens");
        let mut state = Vec::new();
        for (number, part) in (1..).zip(parts.chunks(BACKUP_PART_BYTES_MAX)) {
            state.extend_from_slice(open_part(&secret, &header, number, &mut part.to_vec()).expect("a part"));
        }
        assert_eq!(state, *prepared.state);
        assert!(Envelope::parse(&state).expect("an envelope").are_banks_due());
        let shared = |window: &[u8]| window != [0; 32] && state.windows(32).any(|plain| plain == window);
        assert!(!parts.windows(32).any(shared), "the header alone tells of it, the engine's fingerprint");
    }
}
