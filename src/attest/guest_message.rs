//! Messages between this guest and the secure processor, through a host that may do anything with them.
//!
//! **What.** SNP_GUEST_REQUEST messages (AMD 56860, chapter "guest messages"): [`Messenger`] asks, [`SecretsPage`] is
//! where its key comes from, [`GuestRequest`] is how the firmware lets the host carry a page. [`seal`] and [`open`]
//! are the envelope alone, for whoever plays the processor.
//! **Trust.** The VMPCK, which only the processor and this privilege level know. The host: nothing but delivery.
//! **Laws.** No sequence number is used for two plaintexts: once the host has seen a request, either that request's
//! response authenticates, or the key is wiped and nothing is ever sent again. While the host says 'busy', the very
//! same bytes go out again, and only so often. Requests are built and responses opened in private memory.
//! **Not here.** What the report's caller data binds: [`binding`](super::binding). The GHCB exits: the firmware's.

mod key;
mod report;
mod secrets;
mod service;
mod table;
mod time;

pub use key::{KEY_REQUEST_BYTES, KEY_RESPONSE_BYTES, KeyFields, KeyRequest, KeyRoot};
pub use report::{REPORT_REQUEST_BYTES, REPORT_RESPONSE_BYTES, read_report_response, report_request};
pub use secrets::SecretsPage;
pub use service::{GuestRequestService, ServiceReporter};
pub(crate) use table::Entry;
pub use table::{VCEK_GUID, VLEK_GUID, signing_certificate};
pub use time::{TSC_INFO_BYTES, TscInfo};

use super::AttestFault;
use crate::secret::Secret;
use aes_gcm::{AeadInOut, Aes256Gcm, KeyInit};
use core::mem::offset_of;
use zerocopy::byteorder::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};
use zeroize::Zeroize;

/// Size of a message page.
pub const PAGE_BYTES: usize = 4096;
/// Size of the header in front of the payload (HDR_SIZE).
pub const HEADER_BYTES: usize = HEADER_SIZE as usize;
const HEADER_SIZE: u16 = 0x60;
/// The longest payload that the processor takes or gives.
pub const PAYLOAD_BYTES_MAX: usize = 4000;
/// How often a request that the host calls busy goes out again before its key is wiped.
pub const BUSY_RETRIES_MAX: u32 = 64;
/// Size of a VMPCK: AES-256.
const KEY_BYTES: usize = 32;
/// ALGO 1: AES-256-GCM; HDR_VERSION 1.
const ALGO_AES_256_GCM: u8 = 1;
const HEADER_VERSION: u8 = 1;
/// The additional data: from ALGO to the end of the header. The sequence number is the nonce instead.
const AAD_OFFSET: usize = 0x30;
const TAG_BYTES: usize = 16;

/// MSG_TYPE and MSG_VERSION. A response has the version of its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MessageKind {
    /// MSG_KEY_REQ.
    KeyRequest,
    /// MSG_KEY_RSP.
    KeyResponse,
    /// MSG_KEY_REQ, version 2: with LAUNCH_MIT_VECTOR.
    KeyRequest2,
    /// MSG_KEY_RSP to version 2.
    KeyResponse2,
    /// MSG_REPORT_REQ.
    ReportRequest,
    /// MSG_REPORT_RSP.
    ReportResponse,
    /// MSG_TSC_INFO_REQ.
    TscInfoRequest,
    /// MSG_TSC_INFO_RSP.
    TscInfoResponse,
}

impl MessageKind {
    /// Every message that this code knows.
    pub const ALL: [Self; 8] = [
        Self::KeyRequest,
        Self::KeyResponse,
        Self::KeyRequest2,
        Self::KeyResponse2,
        Self::ReportRequest,
        Self::ReportResponse,
        Self::TscInfoRequest,
        Self::TscInfoResponse,
    ];

    /// MSG_TYPE and MSG_VERSION.
    #[must_use]
    pub const fn numbers(self) -> (u8, u8) {
        match self {
            Self::KeyRequest => (3, 1),
            Self::KeyResponse => (4, 1),
            Self::KeyRequest2 => (3, 2),
            Self::KeyResponse2 => (4, 2),
            Self::ReportRequest => (5, 1),
            Self::ReportResponse => (6, 1),
            Self::TscInfoRequest => (17, 1),
            Self::TscInfoResponse => (18, 1),
        }
    }

    /// The message of those numbers, if it is one that this code knows.
    #[must_use]
    pub fn from_numbers(numbers: (u8, u8)) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.numbers() == numbers)
    }
}

/// The header of a message page, little-endian.
#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    /// 0x00 AUTHTAG: 16 bytes of tag, the rest unused.
    tag: [u8; TAG_BYTES],
    tag_unused: [u8; 16],
    /// 0x20 MSG_SEQNO.
    sequence: U64,
    reserved_28: [u8; 8],
    /// 0x30 ALGO, from here on additional data.
    algo: u8,
    header_version: u8,
    header_bytes: U16,
    kind: u8,
    version: u8,
    payload_bytes: U16,
    reserved_38: U32,
    vmpck: u8,
    reserved_3d: [u8; 35],
}

const _: () = {
    assert!(size_of::<Header>() == HEADER_BYTES && offset_of!(Header, algo) == AAD_OFFSET);
    assert!(offset_of!(Header, sequence) == 0x20 && offset_of!(Header, header_version) == 0x31);
    assert!(offset_of!(Header, header_bytes) == 0x32 && offset_of!(Header, kind) == 0x34);
    assert!(offset_of!(Header, version) == 0x35 && offset_of!(Header, payload_bytes) == 0x36);
    assert!(offset_of!(Header, vmpck) == 0x3C);
};

/// What a header says, beyond the constants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// MSG_TYPE and MSG_VERSION.
    pub kind: MessageKind,
    /// MSG_SEQNO: odd from the guest, even from the processor, never used twice.
    pub sequence: u64,
    /// MSG_VMPCK: whose key, 0 to 3.
    pub vmpck: u8,
}

/// The page is no message, not this message, or does not authenticate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unauthentic;

impl Envelope {
    /// Reads what a page's header claims, before any key is tried.
    ///
    /// # Errors
    /// [`Unauthentic`] if it is no message of a kind known here.
    pub fn claimed(page: &[u8; PAGE_BYTES]) -> Result<Self, Unauthentic> {
        let (header, _) = Header::ref_from_prefix(page).map_err(|_| Unauthentic)?;
        let kind = MessageKind::from_numbers((header.kind, header.version)).ok_or(Unauthentic)?;
        Ok(Self { kind, sequence: header.sequence.get(), vmpck: header.vmpck })
    }

    fn header(&self, payload_bytes: u16) -> Header {
        let (kind, version) = self.kind.numbers();
        Header {
            tag: [0; TAG_BYTES],
            tag_unused: [0; 16],
            sequence: U64::new(self.sequence),
            reserved_28: [0; 8],
            algo: ALGO_AES_256_GCM,
            header_version: HEADER_VERSION,
            header_bytes: U16::new(HEADER_SIZE),
            kind,
            version,
            payload_bytes: U16::new(payload_bytes),
            reserved_38: U32::ZERO,
            vmpck: self.vmpck,
            reserved_3d: [0; 35],
        }
    }

    /// The nonce: the sequence number, little-endian, then zeros (96 bits).
    fn nonce(&self) -> [u8; 12] {
        let mut nonce = [0; 12];
        nonce[..8].copy_from_slice(&self.sequence.to_le_bytes());
        nonce
    }
}

/// Writes the message into `page`; everything after it is zero.
///
/// # Errors
/// [`Unauthentic`] if `payload` is longer than [`PAYLOAD_BYTES_MAX`]; `page` is untouched then.
pub fn seal(
    key: &Secret<KEY_BYTES>,
    envelope: &Envelope,
    payload: &[u8],
    page: &mut [u8; PAGE_BYTES],
) -> Result<(), Unauthentic> {
    if payload.len() > PAYLOAD_BYTES_MAX {
        return Err(Unauthentic);
    }
    let payload_bytes = u16::try_from(payload.len()).map_err(|_| Unauthentic)?;
    let mut header = envelope.header(payload_bytes);
    page.fill(0);
    let body = &mut page[HEADER_BYTES..HEADER_BYTES + payload.len()];
    body.copy_from_slice(payload);
    let tag = key
        .with(|key| {
            let cipher = Aes256Gcm::new(key.into());
            let aad = &header.as_bytes()[AAD_OFFSET..];
            cipher.encrypt_inout_detached((&envelope.nonce()).into(), aad, body.into())
        })
        .map_err(|_| Unauthentic)?;
    header.tag = tag.into();
    page[..HEADER_BYTES].copy_from_slice(header.as_bytes());
    Ok(())
}

/// Opens the message in `page`, in place, if it is exactly the `expected` one; yields its payload.
///
/// Bytes that neither the tag nor the nonce covers (the unused half of AUTHTAG, the reserved field beside
/// MSG_SEQNO, whatever follows the payload) are not looked at.
///
/// # Errors
/// [`Unauthentic`]; the page's content must not be used then.
pub fn open<'p>(
    key: &Secret<KEY_BYTES>,
    expected: &Envelope,
    page: &'p mut [u8; PAGE_BYTES],
) -> Result<&'p [u8], Unauthentic> {
    let (head, body) = page.split_first_chunk_mut::<HEADER_BYTES>().ok_or(Unauthentic)?;
    let header: Header = zerocopy::transmute!(*head);
    let payload_bytes = usize::from(header.payload_bytes.get());
    let wanted = expected.header(header.payload_bytes.get());
    let same = wanted.as_bytes()[AAD_OFFSET..] == head[AAD_OFFSET..];
    if !same || header.sequence.get() != expected.sequence || payload_bytes > PAYLOAD_BYTES_MAX {
        return Err(Unauthentic);
    }
    let payload = &mut body[..payload_bytes];
    key.with(|key| {
        let cipher = Aes256Gcm::new(key.into());
        let (nonce, tag) = (expected.nonce(), header.tag);
        let aad = &head[AAD_OFFSET..];
        cipher.decrypt_inout_detached((&nonce).into(), aad, (&mut *payload).into(), (&tag).into())
    })
    .map_err(|_| Unauthentic)?;
    Ok(payload)
}

/// Why the host did not carry a request (SW_EXITINFO2 of the GHCB's guest request exit).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestRequestError {
    /// The host is busy: the same bytes may be sent again.
    Busy,
    /// The host claims that a buffer is too small.
    InvalidLength,
    /// Anything else.
    Failed,
}

/// How the firmware lets the host carry one page to the processor and one back.
///
/// The implementer copies `request` to memory that it shares with the host and copies the answer back: both
/// arguments are private memory. Bounded in time; before it reports [`Busy`](GuestRequestError::Busy) it may wait.
pub trait GuestRequest {
    /// Carries `request` and writes what came back into `response`.
    ///
    /// # Errors
    /// [`GuestRequestError`]; all of it is the host's word.
    fn exchange(
        &mut self,
        request: &[u8; PAGE_BYTES],
        response: &mut [u8; PAGE_BYTES],
    ) -> Result<(), GuestRequestError>;

    /// As [`exchange`](Self::exchange), as an extended request (NAE 0x8000_0012): the host also writes its table of certificates into
    /// `certificates`, and the length of that in bytes comes back. All of it is the host's word.
    ///
    /// # Errors
    /// [`GuestRequestError::InvalidLength`] where the table does not fit, and where there are no such requests: the same bytes are then
    /// carried plainly, so that their number is not lost.
    fn exchange_extended(
        &mut self,
        _request: &[u8; PAGE_BYTES],
        _response: &mut [u8; PAGE_BYTES],
        _certificates: &mut [u8],
    ) -> Result<usize, GuestRequestError> {
        Err(GuestRequestError::InvalidLength)
    }
}

/// Speaks to the processor with VMPCK0. See the module's laws.
#[derive(Debug)]
pub struct Messenger {
    key: Secret<KEY_BYTES>,
    /// MSG_SEQNO of the next request; `None` while one is under way, and for ever once the key is wiped.
    next: Option<u64>,
}

impl Messenger {
    /// Starts the conversation: nobody else has used or will use this launch's VMPCK0.
    #[must_use]
    pub fn new(secrets: SecretsPage) -> Self {
        Self { key: secrets.vmpck0, next: Some(1) }
    }

    /// Whether the key was wiped: no request will ever succeed again.
    #[must_use]
    pub const fn is_wiped(&self) -> bool {
        self.next.is_none()
    }

    /// One request and its response, which `read` sees once it authenticated.
    ///
    /// Whatever goes wrong before that wipes the key.
    #[inline(never)]
    fn exchange(
        &mut self,
        host: &mut dyn GuestRequest,
        payload: Payload<'_>,
        read: &mut dyn FnMut(&[u8]) -> Result<(), AttestFault>,
    ) -> Result<(), AttestFault> {
        let Payload { ask, answer, bytes } = payload;
        let sequence = self.next.take().ok_or(AttestFault::KeyWiped)?;
        let request = Envelope { kind: ask, sequence, vmpck: 0 };
        let expected = Envelope { kind: answer, sequence: sequence.wrapping_add(1), vmpck: 0 };
        let mut page = [0; PAGE_BYTES];
        let outcome = match seal(&self.key, &request, bytes, &mut page) {
            Ok(()) => deliver(host, &page, &self.key, &expected, read),
            Err(Unauthentic) => Err(AttestFault::NoReport),
        };
        // Only a response that authenticated, whatever it says, keeps the conversation alive; so does no number that
        // has been used (the last one ends it).
        self.next = match outcome {
            Ok(()) | Err(AttestFault::ProcessorRefused) => sequence.checked_add(2),
            Err(_) => None,
        };
        if self.next.is_none() {
            // The old value is wiped in its place.
            self.key = Secret::take(&mut [0; KEY_BYTES]);
        }
        outcome
    }
}

/// A request, and which message answers it.
struct Payload<'b> {
    ask: MessageKind,
    answer: MessageKind,
    bytes: &'b [u8],
}

/// Lets the host carry `request`, the same bytes as often as it is busy, and opens what comes back.
///
/// A frame of its own, so that the two pages never lie in one.
#[inline(never)]
fn deliver(
    host: &mut dyn GuestRequest,
    request: &[u8; PAGE_BYTES],
    key: &Secret<KEY_BYTES>,
    expected: &Envelope,
    read: &mut dyn FnMut(&[u8]) -> Result<(), AttestFault>,
) -> Result<(), AttestFault> {
    let mut response = [0; PAGE_BYTES];
    let mut carried = Err(GuestRequestError::Busy);
    for _ in 0..=BUSY_RETRIES_MAX {
        carried = host.exchange(request, &mut response);
        if carried != Err(GuestRequestError::Busy) {
            break;
        }
    }
    carried.map_err(|_| AttestFault::NoReport)?;
    let outcome = match open(key, expected, &mut response) {
        Ok(payload) => read(payload),
        Err(Unauthentic) => Err(AttestFault::MessageRefused),
    };
    response.zeroize();
    outcome
}
