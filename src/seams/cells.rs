/// The memory in which a guest's flash is shown: out of the reach of guest and host. It is the firmware's, and may lie beside what the component works in.
pub trait Cells {
    /// Size of the flash in bytes.
    fn size_bytes(&self) -> usize;

    /// Copies the bytes at `offset` into `into`; what lies beyond the end is ones.
    fn copy_in(&self, offset: usize, into: &mut [u8]);

    /// Copies `from` to `offset`; what would lie beyond the end is dropped.
    fn copy_out(&mut self, offset: usize, from: &[u8]);
}
