//! Frames: a length, a kind, a body.
//!
//! **What.** [`frame`] finishes a frame around a body that is in place, [`open`] takes one apart; both ends use them.
//! **Trust.** None: a frame says nothing that is authenticated.
//! **Laws.** The length field tells exactly the bytes that came; nothing trails.
//! **Not here.** What the bodies mean: `wire` and `record`.

use super::ReleaseFault;
use super::wire::{
    FRAME_BYTES_MAX, FRAME_HEADER_BYTES, FrameHeader, FrameKind, Refusal, RefusalReason, Wire,
};
use zerocopy::IntoBytes;
use zerocopy::byteorder::little_endian::{U16, U32};

/// Writes the header in front of a body of `body_bytes` at [`FRAME_HEADER_BYTES`]; returns the frame's length.
///
/// # Errors
/// [`ReleaseFault::Misuse`] if the frame does not fit.
pub fn frame(kind: FrameKind, buffer: &mut [u8], body_bytes: usize) -> Result<usize, ReleaseFault> {
    let total = FRAME_HEADER_BYTES + body_bytes;
    let length = u32::try_from(1 + body_bytes).map_err(|_| ReleaseFault::Misuse)?;
    if total > buffer.len().min(FRAME_BYTES_MAX) {
        return Err(ReleaseFault::Misuse);
    }
    let header = FrameHeader { length: U32::new(length), kind: kind as u8 };
    buffer[..FRAME_HEADER_BYTES].copy_from_slice(header.as_bytes());
    Ok(total)
}

/// Writes a frame whose body is one structure; returns the frame's length.
///
/// # Errors
/// [`ReleaseFault::Misuse`] if the frame does not fit.
pub fn frame_of<T: Wire>(kind: FrameKind, buffer: &mut [u8], body: &T) -> Result<usize, ReleaseFault> {
    let room = buffer.get_mut(FRAME_HEADER_BYTES..).and_then(|rest| rest.get_mut(..size_of::<T>()));
    room.ok_or(ReleaseFault::Misuse)?.copy_from_slice(body.as_bytes());
    frame(kind, buffer, size_of::<T>())
}

/// Writes a refusal; returns the frame's length.
///
/// # Errors
/// [`ReleaseFault::Misuse`] if the frame does not fit.
pub fn refusal(reason: RefusalReason, buffer: &mut [u8]) -> Result<usize, ReleaseFault> {
    frame_of(FrameKind::Refusal, buffer, &Refusal { reason: U16::new(reason as u16) })
}

/// Takes a whole frame apart: its kind and its body, in place.
///
/// # Errors
/// [`ReleaseFault::ReplyRefused`] if it is not one frame of a known kind.
pub fn open(frame: &mut [u8]) -> Result<(FrameKind, &mut [u8]), ReleaseFault> {
    let total = frame.len();
    let (header, body) = frame.split_at_mut_checked(FRAME_HEADER_BYTES).ok_or(ReleaseFault::ReplyRefused)?;
    let header: FrameHeader = exactly(header)?;
    let length = usize::try_from(header.length.get()).unwrap_or(usize::MAX);
    if total > FRAME_BYTES_MAX || length != 1 + body.len() {
        return Err(ReleaseFault::ReplyRefused);
    }
    let kind = FrameKind::from_number(header.kind).ok_or(ReleaseFault::ReplyRefused)?;
    Ok((kind, body))
}

/// Reads a structure that must fill `body`.
///
/// # Errors
/// [`ReleaseFault::ReplyRefused`] if it does not.
pub fn exactly<T: Wire>(body: &[u8]) -> Result<T, ReleaseFault> {
    T::read_from_bytes(body).map_err(|_| ReleaseFault::ReplyRefused)
}
