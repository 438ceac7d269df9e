//! What client and guest say to each other: frames of a header and a body.
//!
//! **What.** [`Identity`], [`Challenge`], [`Evidence`], [`Failure`] and the empty hello, in the order in which they are said: hello (client), identity
//! (guest), challenge (client), evidence (guest); a failure (guest) in place of its word. [`binding`] is what the guest has quoted.
//! **Trust.** None, on both sides: any pipe carries it, and whoever holds the pipe may say what it likes.
//! **Laws.** One spelling of everything. Numbers of the frame are little-endian; what a TPM made is as the TPM made it.
//! **Not here.** What is believed of it.
//!
//! A header is `HRAT`, the version (1), the kind (1 to 5), and the body's length in two bytes. A field of variable length has its own length in two bytes before it.
//!
//! | kind | body |
//! | --- | --- |
//! | 1 hello | nothing |
//! | 2 identity | endorsement key (TPMT_PUBLIC), its certificate (DER; may be empty), attestation key (TPMT_PUBLIC), the bound key |
//! | 3 challenge | 32 bytes of nonce, TPM2B_ID_OBJECT's content, TPM2B_ENCRYPTED_SECRET's content, bank (2 bytes, TPM_ALG_ID), PCRs (4 bytes, bit 0 is PCR 0) |
//! | 4 evidence | TPMS_ATTEST, TPMT_SIGNATURE, the PCRs' values one after the other |
//! | 5 failure | step (1 byte), the TPM's response code (4 bytes; 0 if it gave none) |

use husk::bytes::{Reader, Short};
use sha2::{Digest as _, Sha256};
use std::io::{self, Read, Write};

const MAGIC: [u8; 4] = *b"HRAT";
const VERSION: u8 = 1;
const HEADER_BYTES: usize = 8;
/// The longest body: a certificate of 8 KiB, a bound key of 4, and the rest.
pub const BODY_BYTES_MAX: usize = 16 * 1024;
/// The longest bound key: an SSH key's line, or a certificate in PEM.
pub const BOUND_BYTES_MAX: usize = 4096;
/// The longest certificate of an endorsement key.
pub const CERTIFICATE_BYTES_MAX: usize = 8192;
/// Longer than any TPMT_PUBLIC, TPMS_ATTEST, TPMT_SIGNATURE or part of a credential of these keys.
const PART_BYTES_MAX: usize = 1024;
/// The values of 24 PCRs by SHA-512.
const VALUES_BYTES_MAX: usize = PCRS * 64;
/// A PC client's PCRs (TCG PC Client Platform TPM Profile, section "PCR Requirements").
const PCRS: usize = 24;
/// Of a nonce, and of what a credential carries.
pub const NONCE_BYTES: usize = 32;

/// What a quote's qualifying data begins to be made from.
const LABEL: &[u8] = b"HUSK v1 runtime attestation\0";

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The client begins.
    Hello = 1,
    /// [`Identity`].
    Identity = 2,
    /// [`Challenge`].
    Challenge = 3,
    /// [`Evidence`].
    Evidence = 4,
    /// [`Failure`].
    Failure = 5,
}

/// Where a guest failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It did not reach its TPM.
    Reach = 1,
    /// Its TPM made no keys.
    Keys = 2,
    /// Its TPM did not give the certificate that it has.
    Certificate = 3,
    /// Its TPM did not open the challenge.
    Activate = 4,
    /// Its TPM did not quote.
    Quote = 5,
    /// What came is no challenge.
    Request = 6,
}

impl Step {
    const ALL: [Self; 6] =
        [Self::Reach, Self::Keys, Self::Certificate, Self::Activate, Self::Quote, Self::Request];

    /// What did not happen.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::Reach => "its TPM was not reached",
            Self::Keys => {
                "its TPM made no keys: the endorsement hierarchy must be on and its authorization empty"
            }
            Self::Certificate => "its TPM did not give the certificate of its endorsement key",
            Self::Activate => {
                "its TPM did not open the challenge: it was made for another endorsement or attestation key"
            }
            Self::Quote => "its TPM did not quote",
            Self::Request => "it did not understand the request",
        }
    }
}

/// Why a frame was not read.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// The pipe broke, or the other side ended.
    #[error("the other side does not answer any more: {0}")]
    Pipe(#[from] io::Error),
    /// These are no frames.
    #[error(
        "the other side does not speak this protocol: the command must run `husk-attest`, and nothing else may write to its output"
    )]
    Strange,
    /// The other side is newer or older.
    #[error(
        "the other side speaks version {0} of this protocol, this side version 1; use programs of one version"
    )]
    Version(u8),
    /// A frame at the wrong time, or one that is too long.
    #[error("the other side said something else than what comes next in this conversation")]
    Unexpected,
    /// A body breaks its layout.
    #[error("the other side's word is malformed: {0}")]
    Malformed(&'static str),
    /// The guest said that it failed.
    #[error("the guest says: {}{}", .0.step.text(), .0.said())]
    Failed(Failure),
}

impl From<Short> for WireError {
    fn from(Short: Short) -> Self {
        Self::Malformed("it is cut")
    }
}

/// A guest's word that it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Where.
    pub step: Step,
    /// The TPM's response code; 0 if it gave none.
    pub code: u32,
}

impl Failure {
    fn said(&self) -> String {
        if self.code == 0 { String::new() } else { format!(" (TPM response code {:#05x})", self.code) }
    }

    /// The body of its frame.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [&[self.step as u8][..], &self.code.to_le_bytes()].concat()
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`WireError::Malformed`].
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body);
        let [step] = reader.array()?;
        let step = Step::ALL.into_iter().find(|known| *known as u8 == step);
        let code = reader.u32_le()?;
        over(&reader)?;
        Ok(Self { step: step.ok_or(WireError::Malformed("it failed at no known step"))?, code })
    }
}

/// Who the guest says that it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The endorsement key: TPMT_PUBLIC.
    pub ek: Vec<u8>,
    /// Its certificate, or nothing where the TPM has none.
    pub certificate: Vec<u8>,
    /// The attestation key: TPMT_PUBLIC.
    pub ak: Vec<u8>,
    /// What the guest binds to the evidence: a host key, a certificate.
    pub bound: Vec<u8>,
}

impl Identity {
    /// The body of its frame.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.ek, &self.certificate, &self.ak, &self.bound].map(|part| sized(part)).concat()
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`WireError::Malformed`].
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body);
        let identity = Self {
            ek: part(&mut reader, PART_BYTES_MAX)?,
            certificate: part(&mut reader, CERTIFICATE_BYTES_MAX)?,
            ak: part(&mut reader, PART_BYTES_MAX)?,
            bound: part(&mut reader, BOUND_BYTES_MAX)?,
        };
        over(&reader).map(|()| identity)
    }
}

/// Which PCRs, of one bank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Selection {
    /// TPM_ALG_ID of the bank.
    pub bank: u16,
    /// Bit 0 is PCR 0.
    pub pcrs: u32,
}

impl Selection {
    /// The PCRs' numbers, in ascending order.
    pub fn numbers(self) -> impl Iterator<Item = u8> {
        (0_u8..).take(PCRS).filter(move |number| self.pcrs >> number & 1 == 1)
    }

    /// TPML_PCR_SELECTION (TPM 2.0 part 2), with the three bytes of a PC client's TPM.
    #[must_use]
    pub fn to_tpm(self) -> Vec<u8> {
        let [first, second, third, _] = self.pcrs.to_le_bytes();
        let [high, low] = self.bank.to_be_bytes();
        vec![0, 0, 0, 1, high, low, 3, first, second, third]
    }
}

/// What the client demands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Fresh.
    pub nonce: [u8; NONCE_BYTES],
    /// Of TPM2_MakeCredential, for the endorsement key and the attestation key's Name: TPM2B_ID_OBJECT's content.
    pub blob: Vec<u8>,
    /// TPM2B_ENCRYPTED_SECRET's content.
    pub secret: Vec<u8>,
    /// The PCRs to be quoted.
    pub selection: Selection,
}

impl Challenge {
    /// The body of its frame.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let selection = [&self.selection.bank.to_le_bytes()[..], &self.selection.pcrs.to_le_bytes()].concat();
        [&self.nonce[..], &sized(&self.blob), &sized(&self.secret), &selection].concat()
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`WireError::Malformed`].
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body);
        let nonce = reader.array()?;
        let blob = part(&mut reader, PART_BYTES_MAX)?;
        let secret = part(&mut reader, PART_BYTES_MAX)?;
        let selection = Selection { bank: reader.u16_le()?, pcrs: reader.u32_le()? };
        over(&reader)?;
        if selection.pcrs == 0 || selection.pcrs >> PCRS != 0 {
            return Err(WireError::Malformed("it selects no PCRs, or some that no TPM has"));
        }
        Ok(Self { nonce, blob, secret, selection })
    }
}

/// What the guest's TPM says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// TPMS_ATTEST.
    pub quote: Vec<u8>,
    /// TPMT_SIGNATURE.
    pub signature: Vec<u8>,
    /// The selected PCRs' values, one after the other.
    pub values: Vec<u8>,
}

impl Evidence {
    /// The body of its frame.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        [&self.quote, &self.signature, &self.values].map(|part| sized(part)).concat()
    }

    /// Reads a body.
    ///
    /// # Errors
    /// [`WireError::Malformed`].
    pub fn parse(body: &[u8]) -> Result<Self, WireError> {
        let mut reader = Reader::new(body);
        let evidence = Self {
            quote: part(&mut reader, PART_BYTES_MAX)?,
            signature: part(&mut reader, PART_BYTES_MAX)?,
            values: part(&mut reader, VALUES_BYTES_MAX)?,
        };
        over(&reader).map(|()| evidence)
    }
}

/// The qualifying data of the quote: only who knows what the credential carried can have it quoted, and it names all that the guest said of itself
/// (`identity` is the body as it was sent).
#[must_use]
pub fn binding(nonce: &[u8; NONCE_BYTES], carried: &[u8; NONCE_BYTES], identity: &[u8]) -> [u8; 32] {
    let said = Sha256::digest(identity);
    Sha256::new()
        .chain_update(LABEL)
        .chain_update(nonce)
        .chain_update(carried)
        .chain_update(said)
        .finalize()
        .into()
}

/// Sends one frame.
///
/// # Errors
/// [`WireError::Pipe`]; [`WireError::Malformed`] for a body that is too long.
pub fn send(to: &mut dyn Write, kind: Kind, body: &[u8]) -> Result<(), WireError> {
    let length = u16::try_from(body.len()).ok().filter(|length| usize::from(*length) <= BODY_BYTES_MAX);
    let length = length.ok_or(WireError::Malformed("it is longer than a frame"))?.to_le_bytes();
    let frame = [&MAGIC[..], &[VERSION, kind as u8], &length, body].concat();
    to.write_all(&frame).and_then(|()| to.flush()).map_err(WireError::from)
}

/// Reads the frame that comes next, which must be of that kind; its body.
///
/// # Errors
/// [`WireError`].
pub fn receive(from: &mut dyn Read, wanted: Kind) -> Result<Vec<u8>, WireError> {
    let mut header = [0; HEADER_BYTES];
    from.read_exact(&mut header)?;
    let [magic @ .., version, kind, low, high] = header;
    if magic != MAGIC {
        return Err(WireError::Strange);
    }
    if version != VERSION {
        return Err(WireError::Version(version));
    }
    let length = usize::from(u16::from_le_bytes([low, high]));
    if length > BODY_BYTES_MAX {
        return Err(WireError::Unexpected);
    }
    let mut body = vec![0; length];
    from.read_exact(&mut body)?;
    if kind == Kind::Failure as u8 {
        return Err(WireError::Failed(Failure::parse(&body)?));
    }
    if kind == wanted as u8 { Ok(body) } else { Err(WireError::Unexpected) }
}

/// A part and its length. All parts were read within limits or are the caller's own; one that is too long is cut, and the other side refuses it.
fn sized(part: &[u8]) -> Vec<u8> {
    let length = u16::try_from(part.len()).unwrap_or(u16::MAX).to_le_bytes();
    [&length[..], part].concat()
}

fn part(reader: &mut Reader<'_>, bytes_max: usize) -> Result<Vec<u8>, WireError> {
    let length = usize::from(reader.u16_le()?);
    if length > bytes_max {
        return Err(WireError::Malformed("a part is longer than any"));
    }
    Ok(reader.take(length)?.to_vec())
}

fn over(reader: &Reader<'_>) -> Result<(), WireError> {
    if reader.is_empty() { Ok(()) } else { Err(WireError::Malformed("something follows it")) }
}

#[cfg(test)]
mod tests {
    use super::{
        Challenge, Evidence, Failure, Identity, Kind, Selection, Step, WireError, binding, receive, send,
    };

    fn identity() -> Identity {
        Identity {
            ek: vec![1; 3],
            certificate: Vec::new(),
            ak: vec![2; 4],
            bound: b"ssh-ed25519 AAAA".to_vec(),
        }
    }

    #[test]
    fn what_is_said_is_read_and_any_cut_or_addition_is_refused() {
        let selection = Selection { bank: 0x000B, pcrs: 1 << 11 | 1 };
        let challenge = Challenge { nonce: [7; 32], blob: vec![3; 5], secret: vec![4; 6], selection };
        let evidence = Evidence { quote: vec![5; 7], signature: vec![6; 8], values: vec![8; 64] };
        let failure = Failure { step: Step::Activate, code: 0x1F };
        assert_eq!(Identity::parse(&identity().to_bytes()).unwrap(), identity());
        assert_eq!(Challenge::parse(&challenge.to_bytes()).unwrap(), challenge);
        assert_eq!(Evidence::parse(&evidence.to_bytes()).unwrap(), evidence);
        assert_eq!(Failure::parse(&failure.to_bytes()).unwrap(), failure);
        for body in [identity().to_bytes(), challenge.to_bytes(), evidence.to_bytes(), failure.to_bytes()] {
            for altered in [&body[..body.len() - 1], &[&body[..], &[0]].concat()] {
                assert!(Identity::parse(altered).is_err() && Challenge::parse(altered).is_err());
                assert!(Evidence::parse(altered).is_err() && Failure::parse(altered).is_err());
            }
        }
        for pcrs in [0, 1 << 24] {
            let none = Challenge { selection: Selection { pcrs, ..selection }, ..challenge.clone() };
            assert!(Challenge::parse(&none.to_bytes()).is_err(), "{pcrs}");
        }
    }

    #[test]
    fn a_frame_is_of_its_kind_and_version_or_refused() {
        let mut frame = Vec::new();
        send(&mut frame, Kind::Identity, &identity().to_bytes()).unwrap();
        assert_eq!(receive(&mut &frame[..], Kind::Identity).unwrap(), identity().to_bytes());
        assert!(matches!(receive(&mut &frame[..], Kind::Evidence), Err(WireError::Unexpected)));
        assert!(matches!(receive(&mut &frame[..9], Kind::Identity), Err(WireError::Pipe(_))));
        assert!(matches!(receive(&mut &b"Welcome to vm!"[..], Kind::Identity), Err(WireError::Strange)));
        frame[4] = 2;
        assert!(matches!(receive(&mut &frame[..], Kind::Identity), Err(WireError::Version(2))));
        frame[4] = 1;
        frame[6..8].copy_from_slice(&[0xFF, 0xFF]);
        assert!(matches!(receive(&mut &frame[..], Kind::Identity), Err(WireError::Unexpected)));
        assert!(send(&mut Vec::new(), Kind::Identity, &[0; 16 * 1024 + 1]).is_err());
    }

    /// The numbers of the selection are what a TPM takes: the first bit is PCR 0.
    #[test]
    fn a_selection_is_a_tpms() {
        let selection = Selection { bank: 0x000C, pcrs: 1 << 0 | 1 << 11 | 1 << 23 };
        assert_eq!(selection.numbers().collect::<Vec<_>>(), [0, 11, 23]);
        assert_eq!(selection.to_tpm(), [0, 0, 0, 1, 0, 0x0C, 3, 1, 8, 0x80]);
    }

    #[test]
    fn the_binding_names_each_of_its_parts() {
        let said = identity().to_bytes();
        let own = binding(&[1; 32], &[2; 32], &said);
        let other = Identity { bound: b"ssh-ed25519 BBBB".to_vec(), ..identity() }.to_bytes();
        assert_ne!(own, binding(&[3; 32], &[2; 32], &said));
        assert_ne!(own, binding(&[1; 32], &[3; 32], &said));
        assert_ne!(own, binding(&[1; 32], &[2; 32], &other));
    }
}
