//! TPM commands and responses as bytes (TPM 2.0 part 1, "Command/Response Structure").

/// Header of a command or response in bytes.
pub(super) const HEADER_BYTES: usize = 10;

const ST_NO_SESSIONS: [u8; 2] = [0x80, 0x01];
const ST_SESSIONS: [u8; 2] = [0x80, 0x02];

/// TPM_RS_PW: a password in place of a session.
const RS_PW: u32 = 0x4000_0009;

/// TPM_CC (TPM 2.0 part 2) of the commands that the model understands.
pub(super) mod cc {
    pub(crate) const EVICT_CONTROL: u32 = 0x120;
    pub(crate) const NV_UNDEFINE: u32 = 0x122;
    pub(crate) const CHANGE_AUTH: u32 = 0x129;
    pub(crate) const NV_DEFINE: u32 = 0x12A;
    pub(crate) const CREATE_PRIMARY: u32 = 0x131;
    pub(crate) const NV_INCREMENT: u32 = 0x134;
    pub(crate) const NV_SET_BITS: u32 = 0x135;
    pub(crate) const NV_EXTEND: u32 = 0x136;
    pub(crate) const NV_WRITE: u32 = 0x137;
    pub(crate) const DA_PARAMETERS: u32 = 0x13A;
    pub(crate) const PCR_EVENT: u32 = 0x13C;
    pub(crate) const PCR_RESET: u32 = 0x13D;
    pub(crate) const STARTUP: u32 = 0x144;
    pub(crate) const SHUTDOWN: u32 = 0x145;
    pub(crate) const NV_READ: u32 = 0x14E;
    pub(crate) const FLUSH: u32 = 0x165;
    pub(crate) const READ_PUBLIC: u32 = 0x173;
    pub(crate) const GET_CAPABILITY: u32 = 0x17A;
    pub(crate) const PCR_READ: u32 = 0x17E;
    pub(crate) const PCR_EXTEND: u32 = 0x182;
    pub(crate) const PCR_SET_AUTH_VALUE: u32 = 0x183;
    pub(crate) const EVENT_SEQUENCE_COMPLETE: u32 = 0x185;
}

/// TPM_RH (TPM 2.0 part 2).
pub(super) mod rh {
    pub(crate) const OWNER: u32 = 0x4000_0001;
    pub(crate) const NULL: u32 = 0x4000_0007;
    pub(crate) const LOCKOUT: u32 = 0x4000_000A;
    pub(crate) const ENDORSEMENT: u32 = 0x4000_000B;
    pub(crate) const PLATFORM: u32 = 0x4000_000C;
}

/// TPM_RC (TPM 2.0 part 2).
pub(super) mod rc {
    pub(crate) const SUCCESS: u32 = 0;
    pub(crate) const INITIALIZE: u32 = 0x100;
    pub(crate) const FAILURE: u32 = 0x101;
    pub(crate) const NV_UNINITIALIZED: u32 = 0x14A;
    pub(crate) const OBJECT_MEMORY: u32 = 0x902;
    pub(crate) const TESTING: u32 = 0x90A;
    pub(crate) const NV_RATE: u32 = 0x920;
    pub(crate) const RETRY: u32 = 0x922;
    pub(crate) const NV_UNAVAILABLE: u32 = 0x923;
    /// TPM_RC_HANDLE, whichever handle.
    pub(crate) const HANDLE: u32 = 0x08B;
}

/// A command: its code, its handles (those that need it first), their passwords, its parameters.
pub(super) fn command(code: u32, handles: &[u32], passwords: &[&[u8]], parameters: &[u8]) -> Vec<u8> {
    let mut body: Vec<u8> = handles.iter().flat_map(|handle| handle.to_be_bytes()).collect();
    if !passwords.is_empty() {
        let areas: Vec<u8> = passwords.iter().flat_map(|password| area(password)).collect();
        body.extend(size(&areas));
        body.extend(areas);
    }
    body.extend(parameters);
    let tag = if passwords.is_empty() { ST_NO_SESSIONS } else { ST_SESSIONS };
    framed(tag, code, &body)
}

/// TPMS_AUTH_COMMAND with a password: no nonce, no attributes.
fn area(password: &[u8]) -> Vec<u8> {
    [&RS_PW.to_be_bytes()[..], &[0, 0, 0], &sized(password)].concat()
}

fn framed(tag: [u8; 2], code: u32, body: &[u8]) -> Vec<u8> {
    let total = u32::try_from(HEADER_BYTES + body.len()).unwrap_or(u32::MAX);
    [&tag[..], &total.to_be_bytes(), &code.to_be_bytes(), body].concat()
}

fn size(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes()
}

/// A TPM2B: a length of two bytes, and the bytes.
pub(super) fn sized(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_be_bytes();
    [&length[..], bytes].concat()
}

/// A response whose header is consistent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Reply(Vec<u8>);

impl Reply {
    /// Takes what came; none if its header is not a response's.
    pub(super) fn new(bytes: Vec<u8>) -> Option<Self> {
        let tagged = matches!(bytes.first_chunk(), Some([0x80, 1 | 2] | [0x00, 0xC4]));
        let stated = bytes.get(2..6).and_then(|size| size.try_into().ok()).map(u32::from_be_bytes);
        let whole = bytes.len() >= HEADER_BYTES && stated.map(|stated| stated as usize) == Some(bytes.len());
        (tagged && whole).then_some(Self(bytes))
    }

    pub(super) fn code(&self) -> u32 {
        be32(&self.0, 6)
    }

    pub(super) fn is_success(&self) -> bool {
        self.code() == rc::SUCCESS
    }

    /// Whether it says TPM_RC_HANDLE of some handle: what was named is not there.
    pub(super) fn names_nothing(&self) -> bool {
        // Format one, of a handle: the error number in bits 5:0, the handle's number in bits 10:8.
        self.code() & 0x8FF == rc::HANDLE
    }

    /// After the header, and the handle of a command that returns one.
    pub(super) fn body(&self) -> &[u8] {
        &self.0[HEADER_BYTES..]
    }

    /// The handle that a command returns.
    pub(super) fn handle(&self) -> u32 {
        be32(&self.0, HEADER_BYTES)
    }

    /// The parameters of a command with sessions that returns no handle.
    pub(super) fn parameters(&self) -> &[u8] {
        let count = be32(&self.0, HEADER_BYTES) as usize;
        self.0.get(HEADER_BYTES + 4..).and_then(|rest| rest.get(..count)).unwrap_or_default()
    }
}

/// Bytes as one word, for people.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Four bytes, big-endian; zero where there are none.
pub(super) fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|four| four.try_into().ok()).map_or(0, u32::from_be_bytes)
}

/// The content of a TPM2B at the front.
pub(super) fn unsized_bytes(bytes: &[u8]) -> &[u8] {
    let length = bytes.first_chunk().map_or(0, |length| usize::from(u16::from_be_bytes(*length)));
    bytes.get(2..2 + length).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::{Reply, command, rh};

    #[test]
    fn a_command_is_laid_out_as_part_1_says() {
        let bytes = command(0x129, &[rh::OWNER], &[b"pw"], &[0, 1, 7]);
        let area = [0x40, 0, 0, 9, 0, 0, 0, 0, 2, b'p', b'w'];
        let expected =
            [&[0x80, 2, 0, 0, 0, 32, 0, 0, 1, 0x29, 0x40, 0, 0, 1, 0, 0, 0, 11][..], &area, &[0, 1, 7]];
        assert_eq!(bytes, expected.concat());
        assert_eq!(command(0x17C, &[], &[], &[]), [0x80, 1, 0, 0, 0, 10, 0, 0, 1, 0x7C]);
    }

    #[test]
    fn a_response_is_taken_only_if_its_size_is_its_length() {
        let bytes = [0x80, 1, 0, 0, 0, 10, 0, 0, 1, 0x8B];
        assert!(Reply::new(bytes.to_vec()).is_some_and(|reply| reply.names_nothing() && !reply.is_success()));
        assert_eq!(Reply::new(bytes[..9].to_vec()), None);
        assert_eq!(Reply::new([&bytes[..], &[0]].concat()), None);
    }
}
