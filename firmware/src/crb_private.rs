//! The TPM's registers in the guest's own memory: nothing exits, the processor that serves looks.
//!
//! **What.** [`PrivateCrb`] is the shared-page driver of the component over [`ReservedPages`], which the guest is told to leave alone.
//! **Trust.** None: a guest writes these pages whenever it likes, from any processor.
//! **Laws.** The layer only copies these pages, and hands no device their address. A reset makes them anew.
//! **Not here.** What the registers mean: `husk::frontend::crb`. Where the pages lie: `guest::place`.

use crate::memory::Reach;
use husk::frontend::Tpm;
use husk::frontend::crb::handover::{self, Doorbell, Handover};
use husk::frontend::crb::registers::CTRL_CANCEL;
use husk::frontend::crb::{Layout, Shared, Work};
use husk::seams::GuestPage;

/// Pages of the guest, by copies.
#[derive(Clone, Copy, Debug)]
pub struct ReservedPages<M> {
    memory: M,
    base: u64,
    bytes: usize,
}

impl<M: Reach> ReservedPages<M> {
    /// The pages of `layout` in `memory`.
    pub const fn new(memory: M, layout: &Layout) -> Self {
        Self { memory, base: layout.base() as u64, bytes: layout.window_bytes() }
    }

    /// The address of `count` bytes at `offset`, if they lie in the pages.
    fn place(&self, offset: usize, count: usize) -> Option<u64> {
        let end = offset.checked_add(count)?;
        (end <= self.bytes).then_some(self.base + offset as u64)
    }
}

impl<M: Reach> GuestPage for ReservedPages<M> {
    fn size_bytes(&self) -> usize {
        self.bytes
    }

    fn load(&self, offset: usize) -> u32 {
        let mut word = [0; 4];
        self.copy_in(offset, &mut word);
        u32::from_le_bytes(word)
    }

    fn store(&mut self, offset: usize, value: u32) {
        self.copy_out(offset, &value.to_le_bytes());
    }

    fn copy_in(&self, offset: usize, into: &mut [u8]) {
        let copied = self.place(offset, into.len()).map(|at| self.memory.copy_in(at, into));
        if !matches!(copied, Some(Ok(()))) {
            // What is not there says nothing.
            into.fill(0);
        }
    }

    fn copy_out(&mut self, offset: usize, from: &[u8]) {
        // Nothing is written beyond the pages; that they can be reached was seen when they were placed and filled.
        if let Some(at) = self.place(offset, from.len()) {
            self.memory.copy_out(at, from).unwrap_or_default();
        }
    }
}

/// The CRB in such pages.
#[expect(missing_debug_implementations, reason = "commands carry passwords")]
pub struct PrivateCrb<M> {
    driver: Shared<'static>,
    pages: ReservedPages<M>,
    handover: Handover,
}

impl<M: Reach> PrivateCrb<M> {
    /// The interface; nothing is shown before [`reset`](Self::reset).
    pub fn new(layout: Layout, memory: M, work: &'static mut Work, doorbell: Option<Doorbell>) -> Self {
        Self {
            driver: Shared::new(layout, work),
            pages: ReservedPages::new(memory, &layout),
            handover: Handover::of(&layout, doorbell),
        }
    }

    /// Power-on or reset of the TPM, after the guest's memory was made: registers, and what a guest's firmware is told of them.
    pub fn reset(&mut self, tpm: &mut dyn Tpm) {
        self.driver.reset(&mut self.pages, tpm);
        self.pages.copy_out(handover::OFFSET, &self.handover.to_bytes());
    }

    /// Looks once, and serves what the guest asked for. Returns whether it had asked for anything.
    pub fn poll(&mut self, tpm: &mut dyn Tpm) -> bool {
        self.driver.poll(&mut self.pages, tpm)
    }
}

/// Whether the guest wants the running command cancelled: for a processor that looks while another serves.
pub fn wants_cancel(memory: &impl Reach, layout: &Layout) -> bool {
    let mut word = [0; 4];
    memory.copy_in(u64::from(layout.base()) + CTRL_CANCEL as u64, &mut word).is_ok() && word[0] & 1 != 0
}

#[cfg(test)]
mod tests {
    use super::{ReservedPages, wants_cancel};
    use crate::crb_device::{WINDOW_BYTES, layout};
    use crate::guest::fakes::Memory;
    use crate::memory::Reach;
    use husk::frontend::crb::registers::CTRL_CANCEL;
    use husk::seams::GuestPage;

    const BASE: u64 = 0x1000;

    /// Whatever the driver asks for, nothing before and nothing behind the pages is read or written.
    #[test]
    fn nothing_beyond_the_pages_is_reached() {
        let mut memory = Memory::of(0x5000);
        memory.copy_out(0, &[0xEE; 0x5000]).unwrap();
        let layout = layout(BASE).unwrap();
        assert_eq!(layout.window_bytes() as u64, WINDOW_BYTES);
        let mut pages = ReservedPages::new(memory, &layout);
        let end = pages.size_bytes();
        for offset in [end - 3, end, end + 0x1000, usize::MAX - 1] {
            pages.store(offset, 0);
            assert_eq!(pages.load(offset), 0, "{offset:#x}");
        }
        pages.store(0, 0x1234_5678);
        pages.store(end - 4, 1);
        assert_eq!((pages.load(0), pages.load(end - 4)), (0x1234_5678, 1));
        let mut left = [0; 0x5000];
        pages.memory.copy_in(0, &mut left).unwrap();
        assert!(left[..0x1000].iter().chain(&left[0x3000..]).all(|byte| *byte == 0xEE));
    }

    #[test]
    fn a_cancel_is_seen_beside_the_driver() {
        let mut memory = Memory::of(0x5000);
        let layout = layout(BASE).unwrap();
        assert!(!wants_cancel(&memory, &layout));
        memory.copy_out(BASE + CTRL_CANCEL as u64, &[1]).unwrap();
        assert!(wants_cancel(&memory, &layout));
    }
}
