//! Certification of the endorsement keys: the credential that shows who holds one, and the NV indices that certificates lie at.

use super::super::endorsement::EndorsementKey;
use super::super::{
    CHALLENGE_SECRET_BYTES, CertifiedEngine, ChallengeObject, Command, Credential, Engine, EngineFault,
    Maker, PowerOn, ResponseCode, Written,
};
use super::ReferenceEngine;
use super::endorsement::{ENDORSEMENT, PLATFORM};
use super::inquiry::{NULL, PASSWORD, Request, SE_POLICY};
use super::world::{Entry, Stores};
use crate::nv::NvImage;
use crate::secret::Secret;

/// TPM_CC_ActivateCredential, TPM_CC_LoadExternal, TPM_CC_PolicySecret (TPM 2.0 part 2, table TPM_CC).
const ACTIVATE_CREDENTIAL: u32 = 0x147;
const LOAD_EXTERNAL: u32 = 0x167;
const POLICY_SECRET: u32 = 0x151;
/// TPM_CC_NV_DefineSpace, TPM_CC_NV_UndefineSpace, TPM_CC_NV_Write, TPM_CC_NV_WriteLock, TPM_CC_NV_ReadPublic.
const NV_DEFINE_SPACE: u32 = 0x12A;
pub(super) const NV_UNDEFINE_SPACE: u32 = 0x122;
const NV_WRITE: u32 = 0x137;
const NV_WRITE_LOCK: u32 = 0x138;
const NV_READ_PUBLIC: u32 = 0x169;

/// TPMA_NV of a certificate's index: TPMA_NV_PPWRITE, WRITEDEFINE, PPREAD, OWNERREAD, AUTHREAD, NO_DA, PLATFORMCREATE. It is
/// written once by the platform, locked for good, and read by all (TCG EK Credential Profile, "NV Index attributes"; what TPMs are shipped with).
const ATTRIBUTES: u32 = 0x4207_2001;
/// How much is written at once, in bytes: less than MAX_NV_BUFFER_SIZE and a request.
const CHUNK_BYTES: usize = 256;

impl ReferenceEngine {
    /// In a rehearsal: makes the key and the object, and activates.
    fn activate(
        &mut self,
        nv: &mut NvImage<'_>,
        key: EndorsementKey,
        object: &ChallengeObject,
        credential: &Credential<'_>,
    ) -> Result<Option<Secret<CHALLENGE_SECRET_BYTES>>, EngineFault> {
        let (endorsement, _) = self.create_endorsement(nv, key)?;
        let request =
            sized(sized(Request::new(false, LOAD_EXTERNAL), &object.sensitive())?, &object.public())?;
        let loaded = self.expect(nv, request.word(NULL))?.handle().ok_or(EngineFault::Failed)?;
        let session = if key.wants_policy() { self.endorsement_policy(nv)? } else { PASSWORD };
        // For each handle: its session, no nonce, no attributes, no authorization.
        let request = Request::new(true, ACTIVATE_CREDENTIAL).word(loaded).word(endorsement).word(18);
        let request = request.word(PASSWORD).put(&[0; 5]).word(session).put(&[0; 5]);
        let request = sized(sized(request, credential.blob)?, credential.secret)?;
        let reply = self.ask(nv, request)?;
        let opened = reply.sized_parameter().filter(|_| reply.code() == ResponseCode::SUCCESS);
        let Some(opened) = opened.filter(|opened| opened.len() == CHALLENGE_SECRET_BYTES) else {
            return Ok(None);
        };
        let filled: Result<_, EngineFault> = Secret::try_fill(|bytes: &mut [u8; CHALLENGE_SECRET_BYTES]| {
            bytes.copy_from_slice(opened);
            Ok(())
        });
        filled.map(Some)
    }

    /// A policy session that satisfies PolicyA: TPM2_PolicySecret with the endorsement hierarchy, whose authorization is empty.
    fn endorsement_policy(&mut self, nv: &mut NvImage<'_>) -> Result<u32, EngineFault> {
        let session = self.start_session(nv, SE_POLICY)?.ok_or(EngineFault::Failed)?;
        // One password session; no nonce, cpHash and policyRef, no expiration.
        let request = Request::new(true, POLICY_SECRET).word(ENDORSEMENT).word(session).word(9);
        self.expect(nv, request.word(PASSWORD).put(&[0; 5]).put(&[0; 10]))?;
        Ok(session)
    }

    /// Writes one certificate, whole or not at all; whether it is there.
    fn write_certificate(
        &mut self,
        nv: &mut NvImage<'_>,
        index: u32,
        certificate: &[u8],
    ) -> Result<bool, EngineFault> {
        let size = u16::try_from(certificate.len()).map_err(|_| EngineFault::StateTooLarge)?;
        // No authorization; TPM2B_NV_PUBLIC: its size, index, TPM_ALG_SHA256, attributes, no policy, size of the data.
        let request = Request::authorized(NV_DEFINE_SPACE, PLATFORM).put(&[0, 0, 0, 14]).word(index);
        let request = request.put(&[0, 0x0B]).word(ATTRIBUTES).put(&[0, 0]).put(&size.to_be_bytes());
        if self.ask(nv, request)?.code() != ResponseCode::SUCCESS {
            return Ok(false);
        }
        if self.fill_certificate(nv, index, certificate)? {
            return Ok(true);
        }
        self.expect(nv, for_index(NV_UNDEFINE_SPACE, index))?;
        Ok(false)
    }

    fn fill_certificate(
        &mut self,
        nv: &mut NvImage<'_>,
        index: u32,
        certificate: &[u8],
    ) -> Result<bool, EngineFault> {
        let mut offset: u16 = 0;
        for chunk in certificate.chunks(CHUNK_BYTES) {
            let request = sized(for_index(NV_WRITE, index), chunk)?.put(&offset.to_be_bytes());
            if self.ask(nv, request)?.code() != ResponseCode::SUCCESS {
                return Ok(false);
            }
            offset = offset.saturating_add(u16::try_from(chunk.len()).unwrap_or(u16::MAX));
        }
        Ok(self.ask(nv, for_index(NV_WRITE_LOCK, index))?.code() == ResponseCode::SUCCESS)
    }

    fn started(&mut self, nv: &mut NvImage<'_>, entry: Entry<'_>) -> Result<(), EngineFault> {
        self.load(nv, entry)?;
        self.expect(nv, Request::new(false, Command::STARTUP).put(&[0, 0])).map(drop)
    }

    fn find_certificates(&mut self, nv: &mut NvImage<'_>) -> Result<u8, EngineFault> {
        self.started(nv, Entry::Launch { reset_count: 0, clock_ms_min: 0 })?;
        let mut found = 0;
        for key in EndorsementKey::ALL {
            let request = Request::new(false, NV_READ_PUBLIC).word(key.certificate_index());
            if self.ask(nv, request)?.code() == ResponseCode::SUCCESS {
                found |= key.bit();
            }
        }
        Ok(found)
    }

    fn write_all(
        &mut self,
        nv: &mut NvImage<'_>,
        power_on: PowerOn,
        certificates: &[Option<&[u8]>; EndorsementKey::ALL.len()],
    ) -> Result<Written, EngineFault> {
        let PowerOn { reset_count, clock_ms_min, .. } = power_on;
        self.started(nv, Entry::Launch { reset_count, clock_ms_min })?;
        let mut written = Written::All;
        for (key, certificate) in EndorsementKey::ALL.into_iter().zip(certificates) {
            if let Some(certificate) = certificate
                && !self.write_certificate(nv, key.certificate_index(), certificate)?
            {
                written = Written::Refused;
            }
        }
        Ok(written)
    }
}

/// A command on an NV index by the platform, whose authorization is empty after a TPM Reset.
pub(super) fn for_index(code: u32, index: u32) -> Request {
    Request::new(true, code).word(PLATFORM).word(index).word(9).word(PASSWORD).put(&[0; 5])
}

/// Appends a TPM2B.
fn sized(request: Request, bytes: &[u8]) -> Result<Request, EngineFault> {
    let size = u16::try_from(bytes.len()).map_err(|_| EngineFault::Failed)?;
    Ok(request.put(&size.to_be_bytes()).put(bytes))
}

impl CertifiedEngine for ReferenceEngine {
    fn maker(&self) -> Option<Maker> {
        self.endorsement.as_ref().map(super::endorsement::Endorsement::maker)
    }

    fn activate_credential(
        &mut self,
        nv: &mut NvImage<'_>,
        key: EndorsementKey,
        object: &ChallengeObject,
        credential: &Credential<'_>,
    ) -> Result<Option<Secret<CHALLENGE_SECRET_BYTES>>, EngineFault> {
        self.power_off();
        self.check_version()?;
        self.rehearse(nv, |engine, nv| engine.activate(nv, key, object, credential))
    }

    fn certificates(&mut self, nv: &mut NvImage<'_>) -> Result<u8, EngineFault> {
        self.power_off();
        self.check_version()?;
        self.stores = Stores::Forget;
        let found = self.find_certificates(nv);
        self.power_off();
        self.stores = Stores::Keep;
        found
    }

    fn write_certificates(
        &mut self,
        nv: &mut NvImage<'_>,
        power_on: PowerOn,
        certificates: &[Option<&[u8]>; EndorsementKey::ALL.len()],
    ) -> Result<Written, EngineFault> {
        self.power_off();
        self.check_version()?;
        let written = self.write_all(nv, power_on, certificates);
        self.power_off();
        written
    }
}
