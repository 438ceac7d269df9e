//! Steps through what libtpms marshalled: headers, sized buffers, blocks. A step that is not understood ends the walk.

use crate::bytes::{Reader, Short};
use core::ops::Range;

/// A position in a state.
#[derive(Debug)]
pub(super) struct Walk<'s> {
    reader: Reader<'s>,
    len: usize,
}

impl<'s> Walk<'s> {
    /// Begins `from` bytes into `state`.
    pub(super) fn begin(state: &'s [u8], from: usize) -> Result<Self, Short> {
        let mut reader = Reader::new(state);
        reader.take(from)?;
        Ok(Self { reader, len: state.len() })
    }

    /// How many bytes into the state this is.
    pub(super) fn at(&self) -> usize {
        self.len - self.reader.rest().len()
    }

    /// Whether the state ends here.
    pub(super) const fn is_over(&self) -> bool {
        self.reader.is_empty()
    }

    /// Skips `count` bytes. Returns where they lie.
    pub(super) fn skip(&mut self, count: usize) -> Result<Range<usize>, Short> {
        let start = self.at();
        self.reader.take(count)?;
        Ok(start..start + count)
    }

    pub(super) fn byte(&mut self) -> Result<u8, Short> {
        self.reader.array().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Result<u16, Short> {
        self.reader.u16_be()
    }

    pub(super) fn u32(&mut self) -> Result<u32, Short> {
        self.reader.u32_be()
    }

    /// A header: version, magic, lowest version that reads it. Returns the version.
    pub(super) fn header(&mut self, (magic, versions): &(u32, Range<u16>)) -> Result<u16, Short> {
        let version = self.u16()?;
        let known = self.u32()? == *magic && versions.contains(&version);
        self.u16()?;
        if known { Ok(version) } else { Err(Short) }
    }

    /// A length of two bytes and that many bytes. Returns where they lie.
    pub(super) fn sized(&mut self, max: u16) -> Result<Range<usize>, Short> {
        let len = self.u16()?;
        if len > max { Err(Short) } else { self.skip(usize::from(len)) }
    }

    /// A block that an older version may skip: whether it is there, its length, its bytes.
    pub(super) fn block(&mut self) -> Result<(), Short> {
        if self.byte()? > 1 {
            return Err(Short);
        }
        self.sized(u16::MAX).map(drop)
    }
}
