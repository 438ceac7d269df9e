/// The entropy source failed its health test or did not answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EntropyError;

/// Entropy of the processor, never of the host.
pub trait Entropy {
    /// Fills `into` with random bytes.
    ///
    /// # Errors
    /// [`EntropyError`]; nothing may go on without entropy.
    fn fill(&mut self, into: &mut [u8]) -> Result<(), EntropyError>;
}

/// A function is a source of entropy.
impl<F: FnMut(&mut [u8]) -> Result<(), EntropyError>> Entropy for F {
    fn fill(&mut self, into: &mut [u8]) -> Result<(), EntropyError> {
        self(into)
    }
}
