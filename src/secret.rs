//! Bytes that cannot be printed, copied or compared.
//!
//! **What.** [`Secret`] holds key material and wipes it when dropped.
//! **Trust.** The memory it lies in is private to the firmware.
//! **Laws.** No `Clone`, `Copy`, `Debug` of the content, `PartialEq`, `Deref` or serialisation; the only way to the
//! bytes is [`Secret::with`], so that every use can be found by searching for one word.
//! **Not here.** Where secrets come from: `keys/derive.rs` is the table.

use core::fmt;
use zeroize::Zeroize;

/// `N` secret bytes, wiped on drop.
pub struct Secret<const N: usize>([u8; N]);

impl<const N: usize> Secret<N> {
    /// Takes the bytes out of `source`, which is wiped.
    #[must_use]
    pub fn take(source: &mut [u8; N]) -> Self {
        let mut inner = [0; N];
        inner.copy_from_slice(source);
        source.zeroize();
        Self(inner)
    }

    /// Lets `fill` write the bytes in place, so that no copy is left on the stack.
    ///
    /// # Errors
    /// What `fill` returns; the bytes are wiped then.
    pub fn try_fill<E>(fill: impl FnOnce(&mut [u8; N]) -> Result<(), E>) -> Result<Self, E> {
        let mut secret = Self([0; N]);
        fill(&mut secret.0)?;
        Ok(secret)
    }

    /// Lends the bytes for one use.
    pub fn with<R>(&self, using: impl FnOnce(&[u8; N]) -> R) -> R {
        using(&self.0)
    }
}

impl<const N: usize> Drop for Secret<N> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<const N: usize> fmt::Debug for Secret<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Secret<{N}>")
    }
}
