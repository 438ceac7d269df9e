//! The commands of a TPM 2.0 that an attestation takes (part 3 of the specification), and the ways to one.
//!
//! **What.** [`Tpm`] at a [`Place`]: its endorsement key with certificate, an attestation key beside it, credentials, PCRs, quotes.
//! **Trust.** The TPM answers for itself; what it answers is read within limits all the same: a socket's other end may be anybody.
//! **Laws.** No authorization but the empty one is ever sent. A response is read once, to its end.
//! **Not here.** What the answers are worth.

mod way;

pub use way::{Place, Way};

use crate::templates::{NULL, attestation, sized};
use crate::wire::{CERTIFICATE_BYTES_MAX, Selection};
use husk::bytes::{Reader, Short};
use husk::engine::EndorsementKey;
use std::io;
use std::thread::sleep;
use std::time::Duration;
use zeroize::Zeroizing;

/// TPM_ST_NO_SESSIONS, TPM_ST_SESSIONS (part 2).
const NO_SESSIONS: u16 = 0x8001;
const SESSIONS: u16 = 0x8002;
/// TPM_RS_PW, TPM_RH_ENDORSEMENT, TPM_RH_NULL (part 2).
const PASSWORD: u32 = 0x4000_0009;
const ENDORSEMENT: u32 = 0x4000_000B;
const NOBODY: u32 = 0x4000_0007;
/// TPM_CC (part 2).
const CREATE_PRIMARY: u32 = 0x131;
const ACTIVATE_CREDENTIAL: u32 = 0x147;
const NV_READ: u32 = 0x14E;
const POLICY_SECRET: u32 = 0x151;
const QUOTE: u32 = 0x158;
const FLUSH_CONTEXT: u32 = 0x165;
const NV_READ_PUBLIC: u32 = 0x169;
const START_AUTH_SESSION: u32 = 0x176;
const PCR_READ: u32 = 0x17E;
/// TPM_SE_POLICY, and the hash of PolicyA.
const SE_POLICY: u8 = 1;
const SHA256: u16 = 0x000B;
/// TPM_RC_HANDLE for the first handle: there is no such index (part 2, "TPM_RC").
const NO_INDEX: u32 = 0x18B;
/// TPM_RC_YIELDED, TPM_RC_TESTING, TPM_RC_NV_RATE, TPM_RC_RETRY, TPM_RC_NV_UNAVAILABLE: the command may be sent again.
const AGAIN: [u32; 5] = [0x908, 0x90A, 0x920, 0x922, 0x923];
const TRIES_MAX: usize = 50;
const PAUSE: Duration = Duration::from_millis(100);
/// MAX_RESPONSE_SIZE of TPMs, and what the kernel's device gives at most.
const RESPONSE_BYTES_MAX: usize = 4096;
const HEADER_BYTES: usize = 10;
/// Of an NV index at once; every TPM of a PC client gives so much.
const NV_BYTES_MAX: usize = 512;

/// Why a TPM did not do its part.
#[derive(Debug, thiserror::Error)]
pub enum TpmError {
    /// There is no way to it.
    #[error("the TPM does not answer: {0}")]
    Way(#[from] io::Error),
    /// It answered with a code.
    #[error("the TPM refuses with response code {0:#05x}")]
    Refused(u32),
    /// It answered with what is no response.
    #[error("what answers is no TPM: its response is malformed")]
    Malformed,
}

impl From<Short> for TpmError {
    fn from(Short: Short) -> Self {
        Self::Malformed
    }
}

/// A key in a TPM.
#[derive(Clone, Debug)]
pub struct Key {
    handle: u32,
    /// TPMT_PUBLIC.
    pub public: Vec<u8>,
}

/// The two keys of an attestation.
#[derive(Clone, Debug)]
pub struct Keys {
    kind: EndorsementKey,
    /// The endorsement key.
    pub endorsement: Key,
    /// The attestation key, a primary key of the same hierarchy: there a quote shows resetCount as it is (part 1, "Clock").
    pub attestation: Key,
}

/// A TPM.
#[expect(missing_debug_implementations, reason = "a way shows nothing")]
pub struct Tpm(Box<dyn Way>);

impl Tpm {
    /// Opens the way to it.
    ///
    /// # Errors
    /// [`TpmError::Way`].
    pub fn open(place: &Place) -> Result<Self, TpmError> {
        Ok(Self(place.open()?))
    }

    /// A TPM at the other end of `way`.
    #[must_use]
    pub fn over(way: impl Way + 'static) -> Self {
        Self(Box::new(way))
    }

    /// The endorsement key that the TPM has a certificate of, and that certificate; an empty one if it has none.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn certified_key(&mut self) -> Result<(EndorsementKey, Vec<u8>), TpmError> {
        // In the order of what they cost the TPM.
        for key in [EndorsementKey::P256, EndorsementKey::P384, EndorsementKey::Rsa2048] {
            if let Some(certificate) = self.index(key.certificate_index())? {
                return Ok((key, der(certificate)));
            }
        }
        Ok((EndorsementKey::P256, Vec::new()))
    }

    /// The content of an NV index, which anybody may read, if it is there.
    fn index(&mut self, index: u32) -> Result<Option<Vec<u8>>, TpmError> {
        let public = match self.send(&plain(NV_READ_PUBLIC, &index.to_be_bytes())) {
            Err(TpmError::Refused(NO_INDEX)) => return Ok(None),
            answered => answered?,
        };
        // TPM2B_NV_PUBLIC ends with dataSize.
        let mut reader = Reader::new(&public);
        let length = usize::from(reader.u16_be()?);
        let area = reader.take(length)?;
        let size = area.last_chunk().ok_or(TpmError::Malformed)?;
        let size = usize::from(u16::from_be_bytes(*size));
        if size > CERTIFICATE_BYTES_MAX {
            return Err(TpmError::Malformed);
        }
        let mut content = Vec::new();
        while content.len() < size {
            let ask = (size - content.len()).min(NV_BYTES_MAX);
            let wanted = [ask, content.len()].map(|number| u16::try_from(number).unwrap_or(0).to_be_bytes());
            let answer = self.send(&authorized(NV_READ, &[index, index], &[PASSWORD], &wanted.concat()))?;
            let part = parameters(&answer, 0)?.part()?;
            if part.len() != ask {
                return Err(TpmError::Malformed);
            }
            content.extend(part);
        }
        Ok(Some(content))
    }

    /// Makes the endorsement key of that kind, and the attestation key: the same ones each time.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn keys(&mut self, kind: EndorsementKey) -> Result<Keys, TpmError> {
        let endorsement = self.primary(&kind.template())?;
        match self.primary(&attestation()) {
            Ok(attestation) => Ok(Keys { kind, endorsement, attestation }),
            Err(error) => self.flush(endorsement.handle).and(Err(error)),
        }
    }

    /// Takes the keys out of the TPM's memory.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn forget(&mut self, keys: &Keys) -> Result<(), TpmError> {
        let first = self.flush(keys.attestation.handle);
        self.flush(keys.endorsement.handle).and(first)
    }

    fn flush(&mut self, handle: u32) -> Result<(), TpmError> {
        self.send(&plain(FLUSH_CONTEXT, &handle.to_be_bytes())).map(drop)
    }

    /// A primary key of the endorsement hierarchy.
    fn primary(&mut self, template: &[u8]) -> Result<Key, TpmError> {
        // No authorization and no data; no outside information, no PCRs.
        let wanted = [&sized(&[0; 4])[..], &sized(template), &[0; 2], &[0; 4]].concat();
        let answer = self.send(&authorized(CREATE_PRIMARY, &[ENDORSEMENT], &[PASSWORD], &wanted))?;
        let handle = Reader::new(&answer).u32_be()?;
        Ok(Key { handle, public: parameters(&answer, 4)?.part()?.to_vec() })
    }

    /// What a credential for the attestation key carries: it opens only where both keys are in one TPM (part 3, "TPM2_ActivateCredential").
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn activate(
        &mut self,
        keys: &Keys,
        blob: &[u8],
        secret: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, TpmError> {
        let session = if keys.kind.wants_policy() { Some(self.policy_a()?) } else { None };
        let handles = [keys.attestation.handle, keys.endorsement.handle];
        let wanted = [sized(blob), sized(secret)].concat();
        let sessions = [PASSWORD, session.unwrap_or(PASSWORD)];
        let answered = self.send(&authorized(ACTIVATE_CREDENTIAL, &handles, &sessions, &wanted));
        if let Some(session) = session.filter(|_| answered.is_err()) {
            self.flush(session)?;
        }
        let answer = Zeroizing::new(answered?);
        Ok(Zeroizing::new(parameters(&answer, 0)?.part()?.to_vec()))
    }

    /// A session that PolicyA is satisfied in; the command that it authorizes ends it.
    fn policy_a(&mut self) -> Result<u32, TpmError> {
        // Neither salted nor bound: it carries no secret. Its nonce is of the least size, and never used.
        let begin =
            [&NOBODY.to_be_bytes()[..], &NOBODY.to_be_bytes(), &sized(&[0; 16]), &[0; 2], &[SE_POLICY]];
        let begin = [&begin.concat()[..], &NULL.to_be_bytes(), &SHA256.to_be_bytes()].concat();
        let session = Reader::new(&self.send(&plain(START_AUTH_SESSION, &begin))?).u32_be()?;
        // No nonce, no command's parameters, no reference, no expiration.
        let satisfied = authorized(POLICY_SECRET, &[ENDORSEMENT, session], &[PASSWORD], &[0; 10]);
        match self.send(&satisfied) {
            Ok(_) => Ok(session),
            Err(error) => self.flush(session).and(Err(error)),
        }
    }

    /// The selected PCRs' values, one after the other.
    ///
    /// # Errors
    /// [`TpmError`]; [`TpmError::Malformed`] where the TPM does not have them all.
    pub fn values(&mut self, selection: Selection) -> Result<Vec<u8>, TpmError> {
        let (mut rest, mut values) = (selection, Vec::new());
        while rest.pcrs != 0 {
            let answer = self.send(&plain(PCR_READ, &rest.to_tpm()))?;
            let mut reader = Reader::new(&answer);
            // pcrUpdateCounter, then the selection that was read: one bank, as asked.
            let _update: [u8; 4] = reader.array()?;
            let [1, bank, 3, first, second, third] = selected(&mut reader)? else {
                return Err(TpmError::Malformed);
            };
            let read =
                u32::from_le_bytes([first, second, third, 0].map(|byte| u8::try_from(byte).unwrap_or(0)));
            let count = reader.u32_be()?;
            if bank != u32::from(rest.bank)
                || read == 0
                || read & !rest.pcrs != 0
                || count != read.count_ones()
            {
                return Err(TpmError::Malformed);
            }
            for _ in 0..count {
                let length = usize::from(reader.u16_be()?);
                values.extend(reader.take(length)?);
            }
            rest.pcrs &= !read;
        }
        Ok(values)
    }

    /// TPMS_ATTEST and TPMT_SIGNATURE over the selected PCRs and `data`.
    ///
    /// # Errors
    /// [`TpmError`].
    pub fn quote(
        &mut self,
        keys: &Keys,
        data: &[u8; 32],
        selection: Selection,
    ) -> Result<(Vec<u8>, Vec<u8>), TpmError> {
        let wanted = [&sized(data)[..], &NULL.to_be_bytes(), &selection.to_tpm()].concat();
        let answer = self.send(&authorized(QUOTE, &[keys.attestation.handle], &[PASSWORD], &wanted))?;
        let mut answer = parameters(&answer, 0)?;
        let quote = answer.part()?.to_vec();
        Ok((quote, answer.0.rest().to_vec()))
    }

    /// What follows the header of the response to `command`.
    fn send(&mut self, command: &[u8]) -> Result<Vec<u8>, TpmError> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.exchange(command) {
                Err(TpmError::Refused(code)) if AGAIN.contains(&code) && tries < TRIES_MAX => sleep(PAUSE),
                answered => return answered,
            }
        }
    }

    fn exchange(&mut self, command: &[u8]) -> Result<Vec<u8>, TpmError> {
        self.0.write_all(command)?;
        self.0.flush()?;
        let mut response = Zeroizing::new(vec![0; RESPONSE_BYTES_MAX]);
        let (mut read, mut size) = (0, HEADER_BYTES);
        // The kernel's device gives a response at once; a socket may give it in parts.
        while read < size {
            let more = self.0.read(&mut response[read..])?;
            if more == 0 {
                return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
            }
            read += more;
            if let Some(length) = response[..read].get(2..6).and_then(<[u8]>::first_chunk) {
                size = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
            }
            if !(HEADER_BYTES..=RESPONSE_BYTES_MAX).contains(&size) {
                return Err(TpmError::Malformed);
            }
        }
        if read != size {
            return Err(TpmError::Malformed);
        }
        match response[6..HEADER_BYTES].first_chunk().map(|code| u32::from_be_bytes(*code)) {
            Some(0) => Ok(response[HEADER_BYTES..size].to_vec()),
            Some(code) => Err(TpmError::Refused(code)),
            None => Err(TpmError::Malformed),
        }
    }
}

/// The parameters of a response.
struct Parameters<'b>(Reader<'b>);

impl<'b> Parameters<'b> {
    /// A TPM2B.
    fn part(&mut self) -> Result<&'b [u8], TpmError> {
        let length = usize::from(self.0.u16_be()?);
        Ok(self.0.take(length)?)
    }
}

/// Of a response with sessions: behind so many bytes of handles and parameterSize.
fn parameters(answer: &[u8], handles: usize) -> Result<Parameters<'_>, TpmError> {
    let mut reader = Reader::new(answer);
    reader.take(handles)?;
    let size = usize::try_from(reader.u32_be()?).map_err(|_| TpmError::Malformed)?;
    Ok(Parameters(Reader::new(reader.take(size)?)))
}

/// TPML_PCR_SELECTION of one bank: count, bank, bytes, and three of them.
fn selected(reader: &mut Reader<'_>) -> Result<[u32; 6], TpmError> {
    let (count, bank) = (reader.u32_be()?, reader.u16_be()?);
    let [bytes, first, second, third] = reader.array()?;
    Ok([count, u32::from(bank), bytes.into(), first.into(), second.into(), third.into()])
}

/// A command without authorizations.
fn plain(code: u32, body: &[u8]) -> Vec<u8> {
    command(NO_SESSIONS, code, body)
}

/// A command whose authorizations are empty, by these sessions.
fn authorized(code: u32, handles: &[u32], sessions: &[u32], wanted: &[u8]) -> Vec<u8> {
    let handles: Vec<u8> = handles.iter().flat_map(|handle| handle.to_be_bytes()).collect();
    // TPMS_AUTH_COMMAND: handle, no nonce, no attributes (so the session ends with the command), no authorization.
    let area: Vec<u8> =
        sessions.iter().flat_map(|session| [&session.to_be_bytes()[..], &[0; 5]].concat()).collect();
    let size = u32::try_from(area.len()).unwrap_or(0).to_be_bytes();
    command(SESSIONS, code, &[&handles[..], &size, &area, wanted].concat())
}

fn command(tag: u16, code: u32, body: &[u8]) -> Vec<u8> {
    let size = u32::try_from(HEADER_BYTES + body.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&tag.to_be_bytes()[..], &size, &code.to_be_bytes(), body].concat()
}

/// A certificate without the bytes that fill its index, where there are such (DER: SEQUENCE with a length of two bytes).
fn der(mut content: Vec<u8>) -> Vec<u8> {
    if let [0x30, 0x82, high, low, ..] = content[..] {
        content.truncate(4 + usize::from(u16::from_be_bytes([high, low])));
    }
    content
}

#[cfg(test)]
mod tests {
    use super::{Place, Tpm, TpmError, authorized, der};
    use crate::wire::Selection;
    use std::io::{self, Read, Write};
    use std::path::PathBuf;

    /// A TPM that answers with what it was given, in pieces of that many bytes.
    struct Says(Vec<u8>, usize);

    impl Read for Says {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let length = self.1.min(into.len()).min(self.0.len());
            into[..length].copy_from_slice(&self.0[..length]);
            self.0.drain(..length);
            Ok(length)
        }
    }

    impl Write for Says {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn response(code: u32, body: &[u8]) -> Vec<u8> {
        let size = u32::try_from(10 + body.len()).unwrap();
        [&[0x80, 1][..], &size.to_be_bytes(), &code.to_be_bytes(), body].concat()
    }

    #[test]
    fn a_response_is_read_in_any_pieces_to_its_end_and_no_further() {
        for pieces in [1, 4, 9, 4096] {
            assert_eq!(Tpm::over(Says(response(0, &[7; 20]), pieces)).send(b"").unwrap(), [7; 20]);
        }
        let refused = Tpm::over(Says(response(0x18B, b""), 3)).send(b"");
        assert!(matches!(refused, Err(TpmError::Refused(0x18B))));
        let longer = [response(0, b""), vec![0]].concat();
        assert!(matches!(Tpm::over(Says(longer, 4096)).send(b""), Err(TpmError::Malformed)));
        let huge = [&[0x80, 1][..], &[0xFF; 4], &[0; 4]].concat();
        assert!(matches!(Tpm::over(Says(huge, 4096)).send(b""), Err(TpmError::Malformed)));
        assert!(matches!(Tpm::over(Says(vec![0x80], 1)).send(b""), Err(TpmError::Way(_))));
    }

    /// A TPM that gives other PCRs than it was asked for, or none, ends the reading.
    #[test]
    fn pcrs_are_the_ones_that_were_asked_for() {
        let wanted = Selection { bank: 0x000B, pcrs: 1 << 3 };
        let value = [&[0, 0, 0, 1, 0, 2][..], &[9; 2]].concat();
        let read = |selection: Selection| {
            let body = [&[0; 4][..], &selection.to_tpm(), &value].concat();
            Tpm::over(Says(response(0, &body), 4096)).values(wanted)
        };
        assert_eq!(read(wanted).unwrap(), [9; 2]);
        assert!(read(Selection { pcrs: 0, ..wanted }).is_err());
        assert!(read(Selection { pcrs: 1 << 4, ..wanted }).is_err());
        assert!(read(Selection { bank: 0x000C, ..wanted }).is_err());
    }

    #[test]
    fn places_commands_and_certificates_are_as_their_documents_say() {
        assert_eq!("/dev/tpm0".parse(), Ok(Place::Device(PathBuf::from("/dev/tpm0"))));
        assert_eq!("unix:a/b".parse(), Ok(Place::Unix(PathBuf::from("a/b"))));
        assert!("tcp:127.0.0.1:2321".parse::<Place>().is_ok() && "tcp:host".parse::<Place>().is_err());
        let bytes = authorized(0x158, &[0x8000_0000], &[0x4000_0009], &[1]);
        assert_eq!(bytes[..14], [0x80, 2, 0, 0, 0, 28, 0, 0, 1, 0x58, 0x80, 0, 0, 0]);
        assert_eq!(bytes[14..], [0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0, 1]);
        assert_eq!(der(vec![0x30, 0x82, 0, 1, 5, 0xFF, 0xFF]), [0x30, 0x82, 0, 1, 5]);
    }
}
