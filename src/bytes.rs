//! Reading outside bytes once, bounded.
//!
//! **What.** [`Reader`] walks a private copy of outside bytes; every step is checked and nothing panics.
//! **Trust.** None in the content; the slice itself must be private memory.
//! **Laws.** A read either yields exactly what was asked or [`Short`]; the position moves only on success.
//! **Not here.** Fixed-size structures: those are `zerocopy` types beside their format.

/// The bytes ended before the structure did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Short;

/// A bounded cursor over outside bytes.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// The bytes not read yet.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// Whether everything was read.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    /// Takes the next `count` bytes.
    ///
    /// # Errors
    /// [`Short`] if fewer are left.
    pub fn take(&mut self, count: usize) -> Result<&'a [u8], Short> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(Short)?;
        self.rest = rest;
        Ok(head)
    }

    /// Takes the next `N` bytes as an array.
    ///
    /// # Errors
    /// [`Short`] if fewer are left.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let (head, rest) = self.rest.split_first_chunk::<N>().ok_or(Short)?;
        self.rest = rest;
        Ok(*head)
    }

    /// The next two bytes, little-endian.
    ///
    /// # Errors
    /// [`Short`] if fewer are left.
    pub fn u16_le(&mut self) -> Result<u16, Short> {
        self.array().map(u16::from_le_bytes)
    }

    /// The next two bytes, big-endian (TPM wire format).
    ///
    /// # Errors
    /// [`Short`] if fewer are left.
    pub fn u16_be(&mut self) -> Result<u16, Short> {
        self.array().map(u16::from_be_bytes)
    }

    /// The next four bytes, little-endian.
    ///
    /// # Errors
    /// [`Short`] if fewer are left.
    pub fn u32_le(&mut self) -> Result<u32, Short> {
        self.array().map(u32::from_le_bytes)
    }

    /// The next four bytes, big-endian (TPM wire format).
    ///
    /// # Errors
    /// [`Short`] if fewer are left.
    pub fn u32_be(&mut self) -> Result<u32, Short> {
        self.array().map(u32::from_be_bytes)
    }

    /// The next eight bytes, little-endian.
    ///
    /// # Errors
    /// [`Short`] if fewer are left.
    pub fn u64_le(&mut self) -> Result<u64, Short> {
        self.array().map(u64::from_le_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::{Reader, Short};

    #[test]
    fn a_failed_read_moves_nothing() {
        let mut reader = Reader::new(&[1, 2, 3]);
        assert_eq!(reader.u32_le(), Err(Short));
        assert_eq!(reader.u16_be(), Ok(0x0102));
        assert_eq!(reader.take(2), Err(Short));
        assert_eq!(reader.take(1), Ok(&[3][..]));
        assert!(reader.is_empty());
    }
}
