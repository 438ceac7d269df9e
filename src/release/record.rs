//! Sealed records: one request, one reply, compiled by both ends.
//!
//! **What.** [`Caller`] seals requests and opens replies; [`Answerer`] opens requests and seals replies. In place, in
//! the frame's own buffer.
//! **Trust.** The session's keys. Every frame is an allegation until its tag verifies.
//! **Laws.** No nonce repeats: each direction has its own key; a caller never reuses a sequence number; an answerer
//! accepts only growing ones and its [`Asked`] is consumed by the one reply. A caller opens only the reply to
//! the request that is outstanding: same session, same sequence, same operation.
//! **Not here.** Where the keys come from: `transcript`.

use super::ReleaseFault;
use super::frame;
use super::transcript::Digest;
use super::wire::{FRAME_HEADER_BYTES, FrameKind, Operation, RecordHeader, Status, TAG_BYTES};
use crate::secret::Secret;
use aes_gcm::aead::{AeadInOut, KeyInit};
use aes_gcm::{Aes256Gcm, Nonce, Tag};
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::U64;

const IV_BYTES: usize = 12;
/// Where a record's plaintext starts in its frame.
const PLAIN_AT: usize = FRAME_HEADER_BYTES + RecordHeader::BYTES;
/// Where a request's body starts in its frame: after the operation.
pub const REQUEST_BODY_AT: usize = PLAIN_AT + 1;
/// Where a reply's body starts in its frame: after operation and status.
pub const REPLY_BODY_AT: usize = PLAIN_AT + 2;
/// Bytes of a frame that a request's body does not have.
pub const REQUEST_OVERHEAD_BYTES: usize = REQUEST_BODY_AT + TAG_BYTES;

/// One direction's key and initial nonce.
#[derive(Debug)]
pub struct DirectionKey {
    pub(super) key: Secret<32>,
    pub(super) iv: Secret<IV_BYTES>,
}

/// What both ends hold once the hellos are exchanged.
#[derive(Debug)]
pub struct SessionKeys {
    pub(super) session: [u8; 16],
    pub(super) transcript: Digest,
    pub(super) request: DirectionKey,
    pub(super) reply: DirectionKey,
}

impl SessionKeys {
    /// The session's name in every record.
    #[must_use]
    pub const fn session(&self) -> &[u8; 16] {
        &self.session
    }

    /// The session's transcript hash.
    #[must_use]
    pub const fn transcript(&self) -> &Digest {
        &self.transcript
    }

    fn seal(
        &self,
        kind: FrameKind,
        sequence: u64,
        buffer: &mut [u8],
        plain: usize,
    ) -> Result<usize, ReleaseFault> {
        let header = RecordHeader { session: self.session, sequence: U64::new(sequence) };
        let length = frame::frame(kind, buffer, RecordHeader::BYTES + plain + TAG_BYTES)?;
        let record = buffer.get_mut(FRAME_HEADER_BYTES..length).ok_or(ReleaseFault::Misuse)?;
        let (head, sealed) = record.split_at_mut_checked(RecordHeader::BYTES).ok_or(ReleaseFault::Misuse)?;
        head.copy_from_slice(header.as_bytes());
        let (text, tag) = sealed.split_last_chunk_mut::<TAG_BYTES>().ok_or(ReleaseFault::Misuse)?;
        let additional = self.additional(kind, &header);
        let direction = self.direction(kind);
        let sealed =
            direction.cipher().encrypt_inout_detached(&direction.nonce(sequence), &additional, text.into());
        *tag = sealed.map_err(|_| ReleaseFault::Misuse)?.into();
        Ok(length)
    }

    /// Opens a record's body in place, once its header is known to be the expected one.
    fn open<'f>(&self, kind: FrameKind, header: &RecordHeader, sealed: &'f mut [u8]) -> Option<&'f [u8]> {
        let plain = sealed.len().checked_sub(TAG_BYTES)?;
        let (text, tag) = sealed.split_at_mut(plain);
        let tag = Tag::try_from(&*tag).ok()?;
        let additional = self.additional(kind, header);
        let direction = self.direction(kind);
        let nonce = direction.nonce(header.sequence.get());
        direction.cipher().decrypt_inout_detached(&nonce, &additional, (&mut *text).into(), &tag).ok()?;
        Some(text)
    }

    const fn direction(&self, kind: FrameKind) -> &DirectionKey {
        match kind {
            FrameKind::Request => &self.request,
            _ => &self.reply,
        }
    }

    /// Frame kind, record header and transcript.
    fn additional(&self, kind: FrameKind, header: &RecordHeader) -> [u8; 1 + RecordHeader::BYTES + 48] {
        let mut additional = [0; 1 + RecordHeader::BYTES + 48];
        additional[0] = kind as u8;
        additional[1..=RecordHeader::BYTES].copy_from_slice(header.as_bytes());
        additional[1 + RecordHeader::BYTES..].copy_from_slice(&self.transcript);
        additional
    }
}

impl DirectionKey {
    fn cipher(&self) -> Aes256Gcm {
        self.key.with(|key| Aes256Gcm::new(key.into()))
    }

    /// The initial nonce with the sequence number, little-endian, added without carry to its last eight bytes.
    fn nonce(&self, sequence: u64) -> Nonce<aes_gcm::aead::consts::U12> {
        let mut nonce = self.iv.with(|iv| *iv);
        for (byte, count) in nonce[IV_BYTES - 8..].iter_mut().zip(sequence.to_le_bytes()) {
            *byte ^= count;
        }
        nonce.into()
    }
}

/// A request that waits for its one reply.
#[derive(Debug)]
#[must_use]
pub struct Asked {
    sequence: u64,
    operation: Operation,
}

impl Asked {
    /// What was asked.
    #[must_use]
    pub const fn operation(&self) -> Operation {
        self.operation
    }
}

/// The VM's end of a session.
#[derive(Debug)]
pub struct Caller {
    keys: SessionKeys,
    next: u64,
}

impl Caller {
    /// Starts at sequence 0.
    #[must_use]
    pub const fn new(keys: SessionKeys) -> Self {
        Self { keys, next: 0 }
    }

    /// The session's transcript hash.
    #[must_use]
    pub const fn transcript(&self) -> &Digest {
        &self.keys.transcript
    }

    /// Seals a request whose body of `body_bytes` is in place at [`REQUEST_BODY_AT`]; returns the frame's length.
    ///
    /// # Errors
    /// [`ReleaseFault::Misuse`] if the frame does not fit or the session is worn out.
    pub fn seal(
        &mut self,
        operation: Operation,
        buffer: &mut [u8],
        body_bytes: usize,
    ) -> Result<(usize, Asked), ReleaseFault> {
        let sequence = self.next;
        self.next = sequence.checked_add(1).ok_or(ReleaseFault::Misuse)?;
        *buffer.get_mut(PLAIN_AT).ok_or(ReleaseFault::Misuse)? = operation as u8;
        let length = self.keys.seal(FrameKind::Request, sequence, buffer, 1 + body_bytes)?;
        Ok((length, Asked { sequence, operation }))
    }

    /// Opens the body of a [`FrameKind::Reply`] frame, if it is the reply to `asked`: its status and body.
    ///
    /// # Errors
    /// [`ReleaseFault::ReplyRefused`] for anything else, replays and replies to other requests included.
    pub fn open<'f>(&self, asked: &Asked, body: &'f mut [u8]) -> Result<(Status, &'f [u8]), ReleaseFault> {
        self.open_reply(asked, body).ok_or(ReleaseFault::ReplyRefused)
    }

    fn open_reply<'f>(&self, asked: &Asked, body: &'f mut [u8]) -> Option<(Status, &'f [u8])> {
        let (header, sealed) = split(body)?;
        if header.session != self.keys.session || header.sequence.get() != asked.sequence {
            return None;
        }
        let plain = self.keys.open(FrameKind::Reply, &header, sealed)?;
        let (&[operation, status], body) = plain.split_first_chunk()?;
        let status = Status::from_number(status)?;
        (operation == asked.operation as u8).then_some((status, body))
    }
}

/// The broker's end of a session.
#[derive(Debug)]
pub struct Answerer {
    keys: SessionKeys,
    next: u64,
}

impl Answerer {
    /// Accepts any sequence number at first.
    #[must_use]
    pub const fn new(keys: SessionKeys) -> Self {
        Self { keys, next: 0 }
    }

    /// The session's transcript hash.
    #[must_use]
    pub const fn transcript(&self) -> &Digest {
        &self.keys.transcript
    }

    /// Opens the body of a [`FrameKind::Request`] frame: what is asked, and the request's body.
    ///
    /// # Errors
    /// [`ReleaseFault::ReplyRefused`] if it does not authenticate, or is not newer than every request before; the
    /// session goes on.
    pub fn open<'f>(&mut self, body: &'f mut [u8]) -> Result<(Asked, &'f [u8]), ReleaseFault> {
        self.open_request(body).ok_or(ReleaseFault::ReplyRefused)
    }

    fn open_request<'f>(&mut self, body: &'f mut [u8]) -> Option<(Asked, &'f [u8])> {
        let (header, sealed) = split(body)?;
        let sequence = header.sequence.get();
        if header.session != self.keys.session || sequence < self.next {
            return None;
        }
        let after = sequence.checked_add(1)?;
        let plain = self.keys.open(FrameKind::Request, &header, sealed)?;
        self.next = after;
        let (&operation, body) = plain.split_first()?;
        Some((Asked { sequence, operation: Operation::from_number(operation)? }, body))
    }

    /// Seals the one reply to `asked` (which is used up), whose body of `body_bytes` is in place at [`REPLY_BODY_AT`]; returns the
    /// frame's length.
    ///
    /// # Errors
    /// [`ReleaseFault::Misuse`] if the frame does not fit.
    pub fn seal(
        &self,
        asked: Asked,
        status: Status,
        buffer: &mut [u8],
        body_bytes: usize,
    ) -> Result<usize, ReleaseFault> {
        let lead = buffer.get_mut(PLAIN_AT..REPLY_BODY_AT).ok_or(ReleaseFault::Misuse)?;
        lead.copy_from_slice(&[asked.operation as u8, status as u8]);
        self.keys.seal(FrameKind::Reply, asked.sequence, buffer, 2 + body_bytes)
    }
}

/// The session that a [`FrameKind::Request`] frame's body names: an allegation, good for finding its keys.
///
/// # Errors
/// [`ReleaseFault::ReplyRefused`] if the body is too short.
pub fn session_of(body: &[u8]) -> Result<[u8; 16], ReleaseFault> {
    body.first_chunk().copied().ok_or(ReleaseFault::ReplyRefused)
}

fn split(body: &mut [u8]) -> Option<(RecordHeader, &mut [u8])> {
    let (header, sealed) = body.split_at_mut_checked(RecordHeader::BYTES)?;
    Some((frame::exactly(header).ok()?, sealed))
}

#[cfg(test)]
mod tests {
    use super::super::transcript::tests::both_ends;
    use super::{Answerer, Asked, Caller, REPLY_BODY_AT, REQUEST_BODY_AT, ReleaseFault, frame, session_of};
    use crate::release::wire::{FRAME_BYTES_MAX, FrameKind, Operation, Status};

    const ROOM: usize = 256;

    fn pair() -> (Caller, Answerer) {
        let (vm, broker) = both_ends();
        (Caller::new(vm), Answerer::new(broker))
    }

    fn ask(caller: &mut Caller, buffer: &mut [u8; ROOM]) -> (usize, Asked) {
        buffer[REQUEST_BODY_AT..REQUEST_BODY_AT + 4].copy_from_slice(b"body");
        caller.seal(Operation::Renew, buffer, 4).unwrap()
    }

    fn answer(answerer: &Answerer, asked: Asked, buffer: &mut [u8; ROOM]) -> usize {
        buffer[REPLY_BODY_AT..REPLY_BODY_AT + 3].copy_from_slice(b"yes");
        answerer.seal(asked, Status::Ok, buffer, 3).unwrap()
    }

    fn open_request(answerer: &mut Answerer, bytes: &mut [u8]) -> Result<Asked, ReleaseFault> {
        let (kind, body) = frame::open(bytes)?;
        assert_eq!(kind, FrameKind::Request);
        answerer.open(body).map(|(asked, body)| {
            assert_eq!(body, b"body");
            asked
        })
    }

    fn open_reply(caller: &Caller, asked: &Asked, bytes: &mut [u8]) -> Result<(), ReleaseFault> {
        let (FrameKind::Reply, body) = frame::open(bytes)? else { return Err(ReleaseFault::ReplyRefused) };
        caller.open(asked, body).map(|(status, body)| {
            assert_eq!((status, body), (Status::Ok, &b"yes"[..]));
        })
    }

    #[test]
    fn a_request_and_its_reply() {
        let (mut caller, mut answerer) = pair();
        for _ in 0..3 {
            let mut buffer = [0; ROOM];
            let (len, asked) = ask(&mut caller, &mut buffer);
            assert_eq!(session_of(&buffer[5..]), Ok([5; 16]));
            let got = open_request(&mut answerer, &mut buffer[..len]).unwrap();
            assert_eq!(got.operation(), Operation::Renew);
            let len = answer(&answerer, got, &mut buffer);
            open_reply(&caller, &asked, &mut buffer[..len]).unwrap();
        }
    }

    /// Every bit of both frames, every truncation: refused.
    #[test]
    fn every_changed_bit_is_refused_in_both_directions() {
        let (mut caller, mut answerer) = pair();
        let mut request = [0; ROOM];
        let (request_len, asked) = ask(&mut caller, &mut request);
        for bit in 40..request_len * 8 {
            let mut changed = request;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(open_request(&mut answerer, &mut changed[..request_len]).is_err(), "bit {bit}");
        }
        for len in 0..request_len {
            assert!(open_request(&mut answerer, &mut { request }[..len]).is_err());
        }
        let got = open_request(&mut answerer, &mut request[..request_len]).unwrap();
        let mut reply = [0; ROOM];
        let reply_len = answer(&answerer, got, &mut reply);
        for bit in 0..reply_len * 8 {
            let mut changed = reply;
            changed[bit / 8] ^= 1 << (bit % 8);
            assert!(open_reply(&caller, &asked, &mut changed[..reply_len]).is_err(), "bit {bit}");
        }
        for len in 0..reply_len {
            assert!(open_reply(&caller, &asked, &mut { reply }[..len]).is_err());
        }
        open_reply(&caller, &asked, &mut reply[..reply_len]).unwrap();
    }

    #[test]
    fn an_answerer_takes_only_newer_requests() {
        let (mut caller, mut answerer) = pair();
        let mut first = [0; ROOM];
        let (first_len, _) = ask(&mut caller, &mut first);
        let mut second = [0; ROOM];
        let (second_len, _) = ask(&mut caller, &mut second);
        assert!(open_request(&mut answerer, &mut { second }[..second_len]).is_ok());
        assert!(open_request(&mut answerer, &mut second[..second_len]).is_err(), "replayed");
        assert!(open_request(&mut answerer, &mut first[..first_len]).is_err(), "reordered");
    }

    #[test]
    fn a_caller_takes_only_the_reply_to_the_outstanding_request() {
        let (mut caller, mut answerer) = pair();
        let mut buffer = [0; ROOM];
        let (len, _) = ask(&mut caller, &mut buffer);
        let got = open_request(&mut answerer, &mut buffer[..len]).unwrap();
        let mut old = [0; ROOM];
        let old_len = answer(&answerer, got, &mut old);
        let (_, asked) = ask(&mut caller, &mut buffer);
        assert!(open_reply(&caller, &asked, &mut { old }[..old_len]).is_err(), "an older reply");
        let wrong = Asked { sequence: 0, operation: Operation::Anchor };
        assert!(open_reply(&caller, &wrong, &mut old[..old_len]).is_err(), "another operation's reply");
    }

    #[test]
    fn a_frame_that_does_not_fit_is_a_defect() {
        let (mut caller, _) = pair();
        let mut buffer = [0; FRAME_BYTES_MAX + 64];
        let fits = FRAME_BYTES_MAX - super::REQUEST_OVERHEAD_BYTES;
        assert!(caller.seal(Operation::Attest, &mut buffer, fits).is_ok());
        for (len, body) in [(FRAME_BYTES_MAX + 64, fits + 1), (64, 32), (10, 0)] {
            let sealed = caller.seal(Operation::Attest, &mut buffer[..len], body);
            assert_eq!(sealed.map(|_| ()), Err(ReleaseFault::Misuse));
        }
    }
}
