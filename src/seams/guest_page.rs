/// The pages that the guest shares with a shared-page front-end; the guest may write them at any instant.
///
/// Every access is volatile and copies: no Rust reference to these bytes ever exists.
pub trait GuestPage {
    /// Size of the shared window in bytes.
    fn size_bytes(&self) -> usize;

    /// Reads a 32-bit little-endian register at byte `offset` (a multiple of four).
    fn load(&self, offset: usize) -> u32;

    /// Writes a 32-bit little-endian register at byte `offset` (a multiple of four).
    fn store(&mut self, offset: usize, value: u32);

    /// Copies guest bytes at `offset` into private memory.
    fn copy_in(&self, offset: usize, into: &mut [u8]);

    /// Copies private bytes to the guest at `offset`.
    fn copy_out(&mut self, offset: usize, from: &[u8]);
}
