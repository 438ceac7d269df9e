//! Exchanges over a byte stream that a host owns: each request has a tag, and only the reply with that tag counts.
//!
//! A frame on the stream is a header of 16 bytes and at most [`BODY_BYTES_MAX`] bytes. `tools/launcher` speaks the other end.
//!
//! | offset | bytes | |
//! | ---: | ---: | --- |
//! | 0 | 4 | length of the body, little-endian |
//! | 4 | 4 | tag: the request's, repeated by its reply |
//! | 8 | 1 | [`Port`] |
//! | 9 | 1 | [`Word`] |
//! | 10 | 6 | zero |
//!
//! A reply that comes too late has a tag that nobody waits for any more, and is passed over. After a header that no relay of
//! ours writes there is no telling where the next one begins: then the channel is silent for good.

use zerocopy::byteorder::little_endian::U32;
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The longest body in bytes: a frame of the release protocol, which is longer than a page of the processor's and a byte.
pub const BODY_BYTES_MAX: usize = husk::release::wire::FRAME_BYTES_MAX;
/// Size of a header in bytes.
pub const HEADER_BYTES: usize = size_of::<Header>();

/// Who is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Port {
    /// The tenant's broker, through the relay: frames of the release protocol.
    Broker = 1,
    /// The secure processor, where it is simulated: [`ProcessorWord`] and what belongs to it.
    Processor = 2,
}

impl Port {
    /// The port of that number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Broker),
            2 => Some(Self::Processor),
            _ => None,
        }
    }
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Word {
    /// From the firmware: a request.
    Request = 0,
    /// From the host: its answer.
    Answer = 1,
    /// From the host: there is no answer, and nobody knows what became of the request. The body is empty.
    NoAnswer = 2,
}

impl Word {
    const fn from_number(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Request),
            1 => Some(Self::Answer),
            2 => Some(Self::NoAnswer),
            _ => None,
        }
    }
}

/// The first byte of a request to the simulated processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum ProcessorWord {
    /// SNP_GUEST_REQUEST: a page follows, a page is answered.
    GuestRequest = 1,
    /// The DER certificate of the key that signs reports.
    Certificate = 2,
}

impl ProcessorWord {
    /// The word of that number.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::GuestRequest),
            2 => Some(Self::Certificate),
            _ => None,
        }
    }
}

#[derive(Clone, Copy, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Header {
    body_bytes: U32,
    tag: U32,
    port: u8,
    word: u8,
    reserved: [u8; 6],
}

/// A header, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Length of the body in bytes, at most [`BODY_BYTES_MAX`].
    pub body_bytes: usize,
    /// The request's number.
    pub tag: u32,
    /// Who is spoken to.
    pub port: Port,
    /// What the frame is.
    pub word: Word,
}

impl Label {
    /// Reads a header; none if it is not one.
    #[must_use]
    pub fn parse(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let header: Header = zerocopy::transmute!(*bytes);
        let body_bytes =
            usize::try_from(header.body_bytes.get()).ok().filter(|bytes| *bytes <= BODY_BYTES_MAX)?;
        let (port, word) = (Port::from_number(header.port)?, Word::from_number(header.word)?);
        let sound = header.reserved == [0; 6] && (word != Word::NoAnswer || body_bytes == 0);
        sound.then_some(Self { body_bytes, tag: header.tag.get(), port, word })
    }

    /// The header that says so.
    #[must_use]
    pub fn header(&self) -> [u8; HEADER_BYTES] {
        // A length that does not fit its field is one that no reader takes.
        let body_bytes = U32::new(u32::try_from(self.body_bytes).unwrap_or(u32::MAX));
        let (port, word) = (self.port as u8, self.word as u8);
        zerocopy::transmute!(Header { body_bytes, tag: U32::new(self.tag), port, word, reserved: [0; 6] })
    }
}

/// The stream is over: the device failed, or holds what it was given for too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Broken;

/// A byte stream to the host, and the time.
pub trait Wire {
    /// Milliseconds since some instant; never decreases.
    fn now_ms(&self) -> u64;

    /// Sends all of `bytes`, which are at most [`HEADER_BYTES`] + [`BODY_BYTES_MAX`].
    ///
    /// # Errors
    /// [`Broken`] if the device did not take them by `deadline_ms`.
    fn send(&mut self, bytes: &[u8], deadline_ms: u64) -> Result<(), Broken>;

    /// Fills the front of `into`, which is not empty, with what has come; returns how much, and 0 at `deadline_ms`.
    ///
    /// # Errors
    /// [`Broken`].
    fn receive(&mut self, into: &mut [u8], deadline_ms: u64) -> Result<usize, Broken>;
}

/// Why an exchange has no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostError {
    /// None came in time, or the host said that there is none, or the channel is over.
    NoAnswer,
    /// It is longer than the buffer.
    TooLong,
}

/// The firmware's end.
#[derive(Debug)]
pub struct Post<W> {
    wire: W,
    tag: u32,
    /// The header that is being read, and how much of it is there.
    header: [u8; HEADER_BYTES],
    header_bytes: usize,
    /// How much of a body that nobody wants is still to come.
    unwanted_bytes: usize,
    over: bool,
    outgoing: [u8; HEADER_BYTES + BODY_BYTES_MAX],
}

impl<W: Wire> Post<W> {
    /// Nothing was sent yet.
    pub const fn new(wire: W) -> Self {
        Self {
            wire,
            tag: 0,
            header: [0; HEADER_BYTES],
            header_bytes: 0,
            unwanted_bytes: 0,
            over: false,
            outgoing: [0; HEADER_BYTES + BODY_BYTES_MAX],
        }
    }

    /// Sends `request`, in pieces, and waits at most `patience_ms` for its reply, whose length in bytes is returned.
    ///
    /// # Errors
    /// [`PostError`]; the request may have been heard all the same.
    pub fn exchange(
        &mut self,
        port: Port,
        request: &[&[u8]],
        reply: &mut [u8],
        patience_ms: u64,
    ) -> Result<usize, PostError> {
        if self.over {
            return Err(PostError::NoAnswer);
        }
        let deadline_ms = self.wire.now_ms().saturating_add(patience_ms);
        let outcome =
            self.send(port, request, deadline_ms).and_then(|()| self.receive(port, reply, deadline_ms));
        outcome.unwrap_or_else(|Broken| {
            self.over = true;
            Err(PostError::NoAnswer)
        })
    }

    fn send(&mut self, port: Port, request: &[&[u8]], deadline_ms: u64) -> Result<(), Broken> {
        self.tag = self.tag.wrapping_add(1);
        let body_bytes = request.iter().map(|piece| piece.len()).sum();
        let label = Label { body_bytes, tag: self.tag, port, word: Word::Request };
        let frame = self.outgoing.get_mut(..HEADER_BYTES + body_bytes).ok_or(Broken)?;
        let (header, mut rest) = frame.split_at_mut(HEADER_BYTES);
        header.copy_from_slice(&label.header());
        for piece in request {
            let (here, after) = rest.split_at_mut(piece.len());
            here.copy_from_slice(piece);
            rest = after;
        }
        self.wire.send(&self.outgoing[..HEADER_BYTES + body_bytes], deadline_ms)
    }

    /// Reads frames until the one that is waited for. Where time ends in the middle of a frame, the next exchange goes on there.
    fn receive(
        &mut self,
        port: Port,
        reply: &mut [u8],
        deadline_ms: u64,
    ) -> Result<Result<usize, PostError>, Broken> {
        while self.pass_over(deadline_ms)? {
            let Some(label) = self.label(deadline_ms)? else { break };
            if label.tag != self.tag || label.port != port || label.word == Word::Request {
                self.unwanted_bytes = label.body_bytes;
                continue;
            }
            if label.word == Word::NoAnswer {
                break;
            }
            let Some(body) = reply.get_mut(..label.body_bytes) else {
                self.unwanted_bytes = label.body_bytes;
                return Ok(Err(PostError::TooLong));
            };
            return self.body(body, deadline_ms);
        }
        Ok(Err(PostError::NoAnswer))
    }

    fn body(&mut self, body: &mut [u8], deadline_ms: u64) -> Result<Result<usize, PostError>, Broken> {
        let mut filled = 0;
        while filled < body.len() {
            let came = self.wire.receive(&mut body[filled..], deadline_ms)?;
            if came == 0 {
                self.unwanted_bytes = body.len() - filled;
                return Ok(Err(PostError::NoAnswer));
            }
            filled += came;
        }
        Ok(Ok(filled))
    }

    /// Whether what is unwanted has come and gone in time.
    fn pass_over(&mut self, deadline_ms: u64) -> Result<bool, Broken> {
        let mut sink = [0; 256];
        while self.unwanted_bytes > 0 {
            let piece = self.unwanted_bytes.min(sink.len());
            let came = self.wire.receive(&mut sink[..piece], deadline_ms)?;
            if came == 0 {
                return Ok(false);
            }
            self.unwanted_bytes -= came;
        }
        Ok(true)
    }

    /// The next header, if it comes in time.
    fn label(&mut self, deadline_ms: u64) -> Result<Option<Label>, Broken> {
        while self.header_bytes < HEADER_BYTES {
            let came = self.wire.receive(&mut self.header[self.header_bytes..], deadline_ms)?;
            if came == 0 {
                return Ok(None);
            }
            self.header_bytes += came;
        }
        self.header_bytes = 0;
        Label::parse(&self.header).map(Some).ok_or(Broken)
    }
}

#[cfg(test)]
#[path = "tests/post.rs"]
mod tests;
