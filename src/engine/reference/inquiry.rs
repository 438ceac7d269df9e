//! Commands that the engine sends itself: to know the clock, to know which handles count attempts, to charge one.

use super::super::{Attempts, COMMAND_BYTES_MAX, Command, EngineFault, Locality, ResponseCode};
use super::permall::Permall;
use super::{Phase, ReferenceEngine};
use crate::nv::NvImage;

/// TPM_RH_LOCKOUT (TPM 2.0 part 2, table TPM_RH).
pub(super) const LOCKOUT: u32 = 0x4000_000A;
/// TPM_RH_NULL and TPM_RS_PW (TPM 2.0 part 2, table TPM_RH).
pub(super) const NULL: u32 = 0x4000_0007;
pub(super) const PASSWORD: u32 = 0x4000_0009;
/// Types of handles, in bits 31:24 (TPM 2.0 part 2, table TPM_HT).
const HT_NV_INDEX: u8 = 0x01;
const HT_HMAC_SESSION: u8 = 0x02;
/// TPM_NT_PIN_FAIL in bits 7:4 of TPMA_NV (TPM 2.0 part 2, table TPM_NT).
const NT_PIN_FAIL: u32 = 8;
/// TPM_SE_POLICY and TPM_SE_TRIAL (TPM 2.0 part 2, table TPM_SE).
pub(super) const SE_POLICY: u8 = 1;
const SE_TRIAL: u8 = 3;
/// The audit bit of TPMA_SESSION (TPM 2.0 part 2, table TPMA_SESSION).
const SESSION_AUDITS: u8 = 0x80;

/// Offset of a response's parameters or first handle.
const BODY: usize = 10;
/// How often a command is sent again that answers TPM_RC_RETRY.
const RETRIES_MAX: u32 = 4;

/// Codes that a wrong password earns, for the first session: TPM_RC_AUTH_FAIL and TPM_RC_BAD_AUTH.
const WRONG: [u32; 2] = [0x98E, 0x9A2];
/// Codes that say there is nothing to charge: no such handle (TPM_RC_HANDLE for the first handle); the limit is
/// reached, so that no authorization is possible (TPM_RC_AUTH_UNAVAILABLE, TPM_RC_LOCKOUT).
const NOTHING_LEFT: [u32; 3] = [0x18B, 0x12F, 0x921];

/// The longest request that is sent, and the most of a reply that is looked at, in bytes.
const INQUIRY_BYTES_MAX: usize = 512;

/// A short command under construction.
pub(super) struct Request(heapless::Vec<u8, INQUIRY_BYTES_MAX>);

impl Request {
    /// Starts a command whose only handle is authorized with an empty password.
    pub(super) fn authorized(code: u32, handle: u32) -> Self {
        // The authorization area: its size, TPM_RS_PW, empty nonce, no attributes, empty password.
        Self::new(true, code).word(handle).word(9).word(PASSWORD).put(&[0; 5])
    }

    pub(super) fn new(sessions: bool, code: u32) -> Self {
        let tag: u16 = if sessions { 0x8002 } else { 0x8001 };
        Self(heapless::Vec::new()).put(&tag.to_be_bytes()).word(0).word(code)
    }

    /// Appends `bytes`; a request that does not fit stays too short, and the TPM refuses it.
    pub(super) fn put(mut self, bytes: &[u8]) -> Self {
        if self.0.extend_from_slice(bytes).is_err() {
            self.0.clear();
        }
        self
    }

    pub(super) fn word(self, word: u32) -> Self {
        self.put(&word.to_be_bytes())
    }

    /// Fills the size in.
    fn finish(mut self) -> heapless::Vec<u8, INQUIRY_BYTES_MAX> {
        if let (Ok(size), Some(field)) = (u32::try_from(self.0.len()), self.0.get_mut(2..6)) {
            field.copy_from_slice(&size.to_be_bytes());
        }
        self.0
    }
}

/// The reply to an inquiry.
pub(super) struct Reply {
    bytes: heapless::Vec<u8, INQUIRY_BYTES_MAX>,
    code: ResponseCode,
}

impl Reply {
    /// The response code.
    pub(super) const fn code(&self) -> ResponseCode {
        self.code
    }

    /// The handle that it starts with.
    pub(super) fn handle(&self) -> Option<u32> {
        self.word(BODY)
    }

    /// outPublic in the reply to TPM2_CreatePrimary: behind the handle and the size of the parameters.
    pub(super) fn created_public(&self) -> Option<&[u8]> {
        let at = BODY + 4 + 4;
        let len = self.array(at).map(u16::from_be_bytes)?;
        self.bytes.get(at + 2..)?.get(..usize::from(len))
    }

    /// The value of the property that stands `at` in the reply to TPM2_GetCapability: behind moreData, the capability and the count.
    pub(super) fn property(&self, at: usize) -> Option<u32> {
        self.word(BODY + 1 + 4 + 4 + 8 * at + 4).filter(|_| self.code == ResponseCode::SUCCESS)
    }

    /// The first of the handles in the reply to TPM2_GetCapability (TPM_CAP_HANDLES), if the list is not empty: behind moreData, the capability
    /// and the count. Nothing where there is no list.
    pub(super) fn first_listed(&self) -> Option<Option<u32>> {
        match self.word(BODY + 1 + 4)? {
            0 => Some(None),
            _ => self.word(BODY + 1 + 4 + 4).map(Some),
        }
    }

    /// The first sized parameter of a reply to a command with sessions: behind the size of the parameters.
    pub(super) fn sized_parameter(&self) -> Option<&[u8]> {
        let len = self.array(BODY + 4).map(u16::from_be_bytes)?;
        self.bytes.get(BODY + 4 + 2..)?.get(..usize::from(len))
    }

    fn array<const N: usize>(&self, at: usize) -> Option<[u8; N]> {
        self.bytes.get(at..)?.first_chunk().copied()
    }

    fn word(&self, at: usize) -> Option<u32> {
        self.array(at).map(u32::from_be_bytes)
    }
}

impl ReferenceEngine {
    /// Sends a request, and again where the TPM asks for that.
    pub(super) fn ask(&mut self, nv: &mut NvImage<'_>, request: Request) -> Result<Reply, EngineFault> {
        let request = request.finish();
        let mut response = [0; COMMAND_BYTES_MAX];
        for _ in 0..RETRIES_MAX {
            let mut bytes = request.clone();
            let len =
                self.enter(nv, Locality::Zero, |tpms, world| tpms.process(world, &mut bytes, &mut response))?;
            let answer = &response[..len];
            let code = ResponseCode::of(answer);
            if code != ResponseCode::RETRY {
                // Only the start of a reply is ever looked at.
                let bytes = answer.iter().copied().take(INQUIRY_BYTES_MAX).collect();
                return Ok(Reply { bytes, code });
            }
        }
        Err(EngineFault::Failed)
    }

    /// Startup(CLEAR), Shutdown(CLEAR).
    pub(super) fn restart_and_shut_down(&mut self, nv: &mut NvImage<'_>) -> Result<(), EngineFault> {
        for code in [Command::STARTUP, Command::SHUTDOWN] {
            if self.ask(nv, Request::new(false, code).put(&[0, 0]))?.code != ResponseCode::SUCCESS {
                return Err(EngineFault::StateRefused);
            }
        }
        Ok(())
    }

    /// TPM2_ReadClock; `None` before Startup.
    pub(super) fn ask_clock_ms(&mut self, nv: &mut NvImage<'_>) -> Result<Option<u64>, EngineFault> {
        let reply = self.ask(nv, Request::new(false, 0x181))?;
        // TPMS_TIME_INFO: time, then TPMS_CLOCK_INFO, which starts with the clock.
        let clock_ms = reply.array(BODY + 8).map(u64::from_be_bytes);
        Ok(clock_ms.filter(|_| reply.code == ResponseCode::SUCCESS))
    }

    /// The attempts that `command` opens.
    pub(super) fn find_attempts(
        &mut self,
        nv: &mut NvImage<'_>,
        command: &Command<'_>,
    ) -> Result<Attempts, EngineFault> {
        let mut attempts = Attempts::new();
        if self.phase != Phase::On || !command.has_sessions() {
            return Ok(attempts);
        }
        let sessions = Sessions::of(command);
        if let Some(handle) = tried_handle(command) {
            let [kind, ..] = handle.to_be_bytes();
            let counts = match (handle, kind) {
                (LOCKOUT, _) => true,
                (_, HT_NV_INDEX) => {
                    let seen = sessions.audit || audits(nv);
                    seen || self.is_pin_fail(nv, handle)?
                }
                _ => false,
            };
            if counts {
                note(&mut attempts, handle);
            }
        }
        if self.lockout_bound && sessions.hmac {
            note(&mut attempts, LOCKOUT);
        }
        Ok(attempts)
    }

    /// Whether `index` is there and counts failed attempts.
    fn is_pin_fail(&mut self, nv: &mut NvImage<'_>, index: u32) -> Result<bool, EngineFault> {
        let reply = self.ask(nv, Request::new(false, 0x169).word(index))?;
        // TPM2B_NV_PUBLIC: size, index, name algorithm, attributes.
        let attributes = reply.word(BODY + 2 + 4 + 2).filter(|_| reply.code == ResponseCode::SUCCESS);
        Ok(attributes.is_some_and(|bits| bits >> 4 & 0xF == NT_PIN_FAIL))
    }

    /// Tries a wrong password on `handle` in a trial session, where success would lead to nothing.
    pub(super) fn fail_once(&mut self, nv: &mut NvImage<'_>, handle: u32) -> Result<(), EngineFault> {
        let [kind, ..] = handle.to_be_bytes();
        if handle != LOCKOUT && !(kind == HT_NV_INDEX && self.is_pin_fail(nv, handle)?) {
            return Ok(());
        }
        let mut wrong = [0; 32];
        (self.entropy)(&mut wrong).map_err(|_| EngineFault::EntropyFailed)?;
        let session = self.start_trial(nv)?;
        // Handles, one password session with the wrong password, empty nonce, cpHash and policyRef, no expiration.
        let request = Request::new(true, 0x151).word(handle).word(session).word(9 + 32);
        let request = request.word(PASSWORD).put(&[0, 0, 0, 0, 32]).put(&wrong).put(&[0; 10]);
        let tried = self.ask(nv, request);
        self.ask(nv, Request::new(false, 0x165).word(session))?;
        match tried?.code.0 {
            code if WRONG.contains(&code) || NOTHING_LEFT.contains(&code) => Ok(()),
            _ => Err(EngineFault::ChargeFailed),
        }
    }

    /// Starts an unbound, unsalted trial session.
    fn start_trial(&mut self, nv: &mut NvImage<'_>) -> Result<u32, EngineFault> {
        self.start_session(nv, SE_TRIAL)?.ok_or(EngineFault::ChargeFailed)
    }

    /// Starts an unbound, unsalted session of that TPM_SE.
    pub(super) fn start_session(
        &mut self,
        nv: &mut NvImage<'_>,
        kind: u8,
    ) -> Result<Option<u32>, EngineFault> {
        // tpmKey, bind; nonce of 16 bytes, empty salt; the kind; TPM_ALG_NULL; TPM_ALG_SHA256.
        let request = Request::new(false, 0x176).word(NULL).word(NULL).put(&[0, 16]).put(&[0; 16]);
        let reply = self.ask(nv, request.put(&[0, 0, kind, 0, 0x10, 0, 0x0B]))?;
        Ok(reply.word(BODY).filter(|_| reply.code == ResponseCode::SUCCESS))
    }
}

/// Whether commands are audited, in which case an inquiry would show in the audit digest.
fn audits(nv: &NvImage<'_>) -> bool {
    let Some((_, permall)) = nv.engine_state().split_first_chunk::<32>() else { return true };
    Permall::find(permall).is_none_or(|found| found.audits(permall))
}

fn note(attempts: &mut Attempts, handle: u32) {
    // There is room: at most two are ever noted.
    if !attempts.contains(&handle) && attempts.push(handle).is_err() {
        attempts.truncate(3);
    }
}

/// The handle of `command` whose authorization is tried and which may be TPM_RH_LOCKOUT or an NV index (TPM 2.0 part 3:
/// handles marked `@` of the types TPMI_RH_LOCKOUT, TPMI_RH_CLEAR, TPMI_RH_HIERARCHY_AUTH, TPMI_RH_HIERARCHY_POLICY,
/// TPMI_RH_NV_AUTH, TPMI_RH_NV_INDEX, TPMI_DH_ENTITY).
fn tried_handle(command: &Command<'_>) -> Option<u32> {
    let position = match command.code() {
        // Clear, ClearControl, HierarchyChangeAuth, SetPrimaryPolicy, DictionaryAttackLockReset and -Parameters
        0x126 | 0x127 | 0x129 | 0x12E | 0x139 | 0x13A
        // NV_UndefineSpaceSpecial, NV_Increment, NV_SetBits, NV_Extend, NV_Write, NV_WriteLock, NV_ChangeAuth, NV_Read,
        // NV_ReadLock
        | 0x11F | 0x134 | 0x135 | 0x136 | 0x137 | 0x138 | 0x13B | 0x14E | 0x14F
        // PolicyNV, PolicySecret, PolicyAuthorizeNV
        | 0x149 | 0x151 | 0x192 => 0,
        // NV_Certify: the signing key comes first
        0x184 => 1,
        _ => return None,
    };
    let bytes = command.body().get(4 * position..)?.first_chunk()?;
    Some(u32::from_be_bytes(*bytes))
}

/// What the sessions of a command are, as far as it matters here.
#[derive(Clone, Copy, Debug, Default)]
struct Sessions {
    /// One is an HMAC session.
    hmac: bool,
    /// One audits, perhaps exclusively: a command in between would be noticed.
    audit: bool,
}

impl Sessions {
    /// Reads the authorization area where the number of handles says it is. An area that does not parse has whatever
    /// sessions it may seem to have: the TPM refuses the command before it tries any.
    fn of(command: &Command<'_>) -> Self {
        (0..=3).filter_map(|handles| Self::area(command.body(), handles)).fold(Self::default(), |all, one| {
            Self { hmac: all.hmac | one.hmac, audit: all.audit | one.audit }
        })
    }

    /// The sessions of the area behind `handles` handles, if one parses there.
    fn area(body: &[u8], handles: usize) -> Option<Self> {
        let (size, rest) = body.get(4 * handles..)?.split_first_chunk()?;
        let mut area = rest.get(..usize::try_from(u32::from_be_bytes(*size)).ok()?)?;
        let mut found = Self::default();
        while !area.is_empty() {
            let (handle, rest) = area.split_first_chunk::<4>()?;
            let rest = behind_sized(rest)?;
            let (attributes, rest) = rest.split_first()?;
            area = behind_sized(rest)?;
            found.hmac |= handle[0] == HT_HMAC_SESSION;
            found.audit |= attributes & SESSION_AUDITS != 0;
        }
        Some(found)
    }
}

fn behind_sized(bytes: &[u8]) -> Option<&[u8]> {
    let (len, rest) = bytes.split_first_chunk()?;
    rest.get(usize::from(u16::from_be_bytes(*len))..)
}
