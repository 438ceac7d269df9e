//! One checked command.

use super::{COMMAND_BYTES_MAX, EngineFault};

/// TPM_ST_NO_SESSIONS (TPM 2.0 part 2, table TPM_ST).
const TPM_ST_NO_SESSIONS: u16 = 0x8001;
/// TPM_ST_SESSIONS (TPM 2.0 part 2, table TPM_ST).
const TPM_ST_SESSIONS: u16 = 0x8002;

/// Header of a command or response in bytes: tag, size, code (TPM 2.0 part 1, section "Command/Response Header Fields").
const HEADER_BYTES: usize = 10;

/// Where a command came from (TPM 2.0 part 1, section "Locality").
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Locality {
    /// The operating system.
    #[default]
    Zero,
    /// Reserved for the operating system's trusted parts.
    One,
    /// A dynamically launched OS.
    Two,
    /// Auxiliary components.
    Three,
    /// Trusted hardware.
    Four,
}

impl Locality {
    /// The number in the specifications.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The locality of that number, if there is one.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Zero),
            1 => Some(Self::One),
            2 => Some(Self::Two),
            3 => Some(Self::Three),
            4 => Some(Self::Four),
            _ => None,
        }
    }
}

/// A TPM_RC (TPM 2.0 part 2, section "TPM_RC").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseCode(pub u32);

impl ResponseCode {
    /// TPM_RC_SUCCESS.
    pub const SUCCESS: Self = Self(0);
    /// TPM_RC_INITIALIZE: not started up.
    pub const INITIALIZE: Self = Self(0x100);
    /// TPM_RC_FAILURE: failure mode.
    pub const FAILURE: Self = Self(0x101);
    /// TPM_RC_VALUE for parameter 1.
    pub const VALUE_PARAMETER_1: Self = Self(0x1C4);
    /// TPM_RC_RETRY: send the command again.
    pub const RETRY: Self = Self(0x922);
    /// TPM_RC_NV_UNAVAILABLE: nothing was executed, try again later.
    pub const NV_UNAVAILABLE: Self = Self(0x923);

    /// The code of a response, or `FAILURE` for bytes that are none.
    #[must_use]
    pub fn of(response: &[u8]) -> Self {
        response
            .get(6..HEADER_BYTES)
            .and_then(|code| code.try_into().ok())
            .map_or(Self::FAILURE, |code| Self(u32::from_be_bytes(code)))
    }

    /// A whole response that says just this.
    #[must_use]
    pub fn response(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0x80, 0x01, 0, 0, 0, 10, 0, 0, 0, 0];
        bytes[6..].copy_from_slice(&self.0.to_be_bytes());
        bytes
    }
}

/// What the world must grant before a command may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Needs {
    /// Nothing: measurements, hash sequences, capabilities, self tests (they must work while a host stalls the broker).
    Nothing,
    /// The right to answer: a live lease.
    Lease,
    /// A live lease and a broker that can anchor: the command may change NV, or charge an authorization attempt.
    Nv,
}

/// One command in private memory whose header is consistent.
#[derive(Clone, Copy, Debug)]
pub struct Command<'b> {
    bytes: &'b [u8],
    locality: Locality,
    code: u32,
    sessions: bool,
}

impl<'b> Command<'b> {
    /// TPM_CC_Clear.
    pub const CLEAR: u32 = 0x126;
    /// TPM_CC_StartAuthSession.
    pub const START_AUTH_SESSION: u32 = 0x176;
    /// TPM_CC_Startup.
    pub const STARTUP: u32 = 0x144;
    /// TPM_CC_Shutdown.
    pub const SHUTDOWN: u32 = 0x145;

    /// Checks the header of `bytes`, which must already be a private copy.
    ///
    /// # Errors
    /// [`EngineFault::Malformed`] if tag or size are not a command's.
    pub fn parse(bytes: &'b [u8], locality: Locality) -> Result<Self, EngineFault> {
        if bytes.len() < HEADER_BYTES || bytes.len() > COMMAND_BYTES_MAX {
            return Err(EngineFault::Malformed);
        }
        let size = u32::from_be_bytes([bytes[2], bytes[3], bytes[4], bytes[5]]);
        if usize::try_from(size) != Ok(bytes.len()) {
            return Err(EngineFault::Malformed);
        }
        let sessions = match u16::from_be_bytes([bytes[0], bytes[1]]) {
            TPM_ST_NO_SESSIONS => false,
            TPM_ST_SESSIONS => true,
            _ => return Err(EngineFault::Malformed),
        };
        let code = u32::from_be_bytes([bytes[6], bytes[7], bytes[8], bytes[9]]);
        Ok(Self { bytes, locality, code, sessions })
    }

    /// The whole command.
    #[must_use]
    pub const fn bytes(&self) -> &'b [u8] {
        self.bytes
    }

    /// Handles, authorizations and parameters.
    #[must_use]
    pub fn body(&self) -> &'b [u8] {
        &self.bytes[HEADER_BYTES..]
    }

    /// Where it came from.
    #[must_use]
    pub const fn locality(&self) -> Locality {
        self.locality
    }

    /// TPM_CC.
    #[must_use]
    pub const fn code(&self) -> u32 {
        self.code
    }

    /// Whether it carries an authorization area.
    #[must_use]
    pub const fn has_sessions(&self) -> bool {
        self.sessions
    }

    /// What must be granted before this command may run.
    ///
    /// This is the class of the command itself. Two things add to it: a command that
    /// [opens an attempt](super::Engine::attempts) needs [`Needs::Nv`] whatever its class (a session that is bound to
    /// TPM_RH_LOCKOUT may try it with any command), and an engine may forgive a failed authorization, whose time has
    /// come, at the start of any command. A response is locked to the image's version in any case.
    ///
    /// The rule is by exclusion, so that an unknown command is in the strictest class: only measurements, hash
    /// sequences and what reads nothing that persists are free; what carries no authorization and changes no NV needs
    /// a lease; all the rest may change NV.
    #[must_use]
    pub const fn needs(&self) -> Needs {
        match self.code {
            // SelfTest, IncrementalSelfTest, GetTestResult, GetCapability, GetRandom, PCR_Read, ReadClock, TestParms
            0x143 | 0x142 | 0x17C | 0x17A | 0x17B | 0x17E | 0x181 | 0x18A
            // PCR_Extend, PCR_Event, Hash, HMAC-free sequences: HashSequenceStart, SequenceUpdate, SequenceComplete,
            // EventSequenceComplete, and FlushContext
            | 0x182 | 0x13C | 0x17D | 0x186 | 0x15C | 0x13E | 0x185 | 0x165 => Needs::Nothing,
            // StartAuthSession, ReadPublic, NV_ReadPublic, ContextSave, ContextLoad, LoadExternal, VerifySignature,
            // RSA_Encrypt, ECDH_KeyGen, ECC_Parameters, MakeCredential, PolicyPCR, PolicyCommandCode, PolicyGetDigest,
            // PolicyAuthValue, PolicyPassword, PolicyOR, PolicyRestart
            0x176 | 0x173 | 0x169 | 0x162 | 0x161 | 0x167 | 0x177 | 0x174 | 0x163 | 0x178 | 0x168 | 0x17F | 0x16C
            | 0x189 | 0x16B | 0x18C | 0x171 | 0x180
                if !self.sessions =>
            {
                Needs::Lease
            }
            _ => Needs::Nv,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Command, Locality, Needs, ResponseCode};

    #[test]
    fn a_header_that_lies_about_its_size_is_refused() {
        let mut bytes = [0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x44, 0, 0];
        assert!(Command::parse(&bytes, Locality::Zero).is_ok());
        for size in [0, 11, 13, 0xFF] {
            bytes[5] = size;
            assert!(Command::parse(&bytes, Locality::Zero).is_err());
        }
        bytes[5] = 12;
        bytes[1] = 0xC4;
        assert!(Command::parse(&bytes, Locality::Zero).is_err());
    }

    #[test]
    fn an_unknown_command_is_in_the_strictest_class() {
        let bytes = [0x80, 1, 0, 0, 0, 10, 0, 0, 0x7F, 0xFF];
        assert_eq!(Command::parse(&bytes, Locality::Zero).map(|c| c.needs()), Ok(Needs::Nv));
    }

    #[test]
    fn a_bare_response_says_its_code() {
        assert_eq!(ResponseCode::of(&ResponseCode::NV_UNAVAILABLE.response()), ResponseCode::NV_UNAVAILABLE);
        assert_eq!(ResponseCode::of(&[]), ResponseCode::FAILURE);
    }
}
