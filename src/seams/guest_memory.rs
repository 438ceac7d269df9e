/// The address is not one that the caller may name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadAddress;

/// The guest-physical memory of the vCPU that made a call; the guest may write it at any instant, from any vCPU.
///
/// The implementer refuses every byte that is not the calling privilege level's own, private (encrypted) and validated memory:
/// its own memory, memory of a more privileged level, and pages shared with the host. Every access copies; no Rust reference
/// to these bytes ever exists. One access never crosses a page of 4096 bytes, so at most one page is mapped for it.
pub trait GuestMemory {
    /// Copies the bytes at guest-physical `address` into private memory.
    ///
    /// # Errors
    /// [`BadAddress`]; the content of `into` is unspecified then.
    fn copy_in(&mut self, address: u64, into: &mut [u8]) -> Result<(), BadAddress>;

    /// Copies private bytes to guest-physical `address`.
    ///
    /// # Errors
    /// [`BadAddress`]; any part may have been written then.
    fn copy_out(&mut self, address: u64, from: &[u8]) -> Result<(), BadAddress>;
}
