//! Bytes as decisions: what a structured target reads its script from.

/// What is left of an input. At its end every number is zero and every chunk empty.
#[derive(Clone, Debug)]
pub(crate) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(crate) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) const fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) const fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let taken = self.chunk(N);
        out[..taken.len()].copy_from_slice(taken);
        out
    }

    pub(crate) fn byte(&mut self) -> u8 {
        u8::from_le_bytes(self.array())
    }

    pub(crate) fn short(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub(crate) fn word(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub(crate) fn quad(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// A number below `bound`, which is at most 65536 and not zero.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        let drawn = if bound > 256 { usize::from(self.short()) } else { usize::from(self.byte()) };
        drawn % bound
    }

    /// The next bytes, at most `max`.
    pub(crate) fn chunk(&mut self, max: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(max.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// A length of two bytes, and as many bytes as are left of it.
    pub(crate) fn sized(&mut self) -> &'a [u8] {
        let length = usize::from(self.short());
        self.chunk(length)
    }
}

/// A chunk as [`Input::sized`] reads it, for seeds.
pub(crate) fn sized(bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX).to_le_bytes();
    [&length[..], &bytes[..bytes.len().min(usize::from(u16::MAX))]].concat()
}
