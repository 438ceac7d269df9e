//! Which page of the machine is whose to read: one table, which the guest's map and the layer's devices are made by.
//!
//! **What.** [`Page`] names every kind of page that the layer places, [`Page::policy`] who gets what of it: the guest, the layer, and, on
//! SEV-SNP, the host. [`crb_pages`] are those of a CRB.
//! **Trust.** What the host gets is what the guest's and the layer's page tables *ask for*; on this stand-in the host reads everything.
//! **Laws.** The guest's nested map has no other views than [`Page::view`]. The layer gives its devices addresses in
//! [`Page::Devices`] and nowhere else. No page through which commands pass is shared with the host where the CRB is private.
//! **Not here.** Where the pages lie: `guest::place`, `memory`. The map: `svm::npt`.

use crate::svm::npt::{PAGE_BYTES, View};
use crate::wishes::CrbPlace;
use core::ops::Range;
use husk::frontend::crb::Layout;

/// A kind of page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// The layer's own: code, secrets, page tables.
    Layer,
    /// The layer's too: queues of its devices, and the buffers that requests are copied into.
    Devices,
    /// What the launcher brought for the guest.
    Payload,
    /// The TPM's registers at the PTP's address, outside of RAM.
    TrappedRegisters,
    /// The buffer behind them.
    TrappedBuffer,
    /// The TPM's registers in the guest's RAM.
    PrivateRegisters,
    /// The buffer behind them.
    PrivateBuffer,
    /// The guest's other memory.
    Guest,
}

/// What the guest gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GuestGets {
    /// Nothing there.
    Hole,
    /// Registers: every access exits.
    Registers,
    /// Memory that it reads and writes.
    Memory,
}

/// How the layer uses a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerUse {
    /// As its own.
    Owns,
    /// By copies of what it was asked to look at.
    Copies,
}

/// What the host can read and write on SEV-SNP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HostGets {
    /// Nothing: the page is private.
    Nothing,
    /// All of it: the page is shared.
    All,
    /// What the guest decides to share.
    AsGuestWants,
}

/// Who gets what of a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The guest.
    pub guest: GuestGets,
    /// The layer.
    pub layer: LayerUse,
    /// The host, on SEV-SNP.
    pub host: HostGets,
}

impl Page {
    /// All kinds.
    pub const ALL: [Self; 8] = [
        Self::Layer,
        Self::Devices,
        Self::Payload,
        Self::TrappedRegisters,
        Self::TrappedBuffer,
        Self::PrivateRegisters,
        Self::PrivateBuffer,
        Self::Guest,
    ];

    /// The table.
    ///
    /// Linux maps registers outside of RAM as shared (`arch/x86/mm/ioremap.c`, `__ioremap_check_encrypted`), which is what decides the rows
    /// of the trapped CRB; those of the private one hold if a firmware calls the pages EfiRuntimeServicesData (decision 10).
    #[must_use]
    pub const fn policy(self) -> Policy {
        let (guest, layer, host) = match self {
            Self::Layer | Self::Payload => (GuestGets::Hole, LayerUse::Owns, HostGets::Nothing),
            Self::Devices => (GuestGets::Hole, LayerUse::Owns, HostGets::All),
            Self::TrappedRegisters => (GuestGets::Registers, LayerUse::Owns, HostGets::All),
            Self::TrappedBuffer => (GuestGets::Memory, LayerUse::Copies, HostGets::All),
            Self::PrivateRegisters | Self::PrivateBuffer => {
                (GuestGets::Memory, LayerUse::Copies, HostGets::Nothing)
            }
            Self::Guest => (GuestGets::Memory, LayerUse::Copies, HostGets::AsGuestWants),
        };
        Policy { guest, layer, host }
    }

    /// What the guest's nested map has there; `instead` is where the bytes of a page outside of RAM lie.
    #[must_use]
    pub const fn view(self, instead: Option<u64>) -> View {
        match (self.policy().guest, instead) {
            (GuestGets::Hole | GuestGets::Registers, _) => View::Nothing,
            (GuestGets::Memory, Some(address)) => View::Elsewhere(address),
            (GuestGets::Memory, None) => View::Whole,
        }
    }
}

/// The pages of a CRB: registers, then the buffer.
#[must_use]
pub fn crb_pages(place: CrbPlace, layout: &Layout) -> [(Page, Range<u64>); 2] {
    let base = u64::from(layout.base());
    let (registers, buffer) = match place {
        CrbPlace::Trapped => (Page::TrappedRegisters, Page::TrappedBuffer),
        CrbPlace::Private => (Page::PrivateRegisters, Page::PrivateBuffer),
    };
    let middle = base + layout.register_bytes() as u64;
    [(registers, base..middle), (buffer, middle..middle + PAGE_BYTES)]
}

/// Those of `pages` that the host reads on SEV-SNP.
pub fn shared_with_host(pages: &[(Page, Range<u64>)]) -> impl Iterator<Item = &Range<u64>> {
    pages.iter().filter(|(page, _)| page.policy().host == HostGets::All).map(|(_, range)| range)
}

#[cfg(test)]
mod tests {
    use super::{GuestGets, HostGets, LayerUse, Page, crb_pages, shared_with_host};
    use crate::crb_device::{BASE, layout};
    use crate::svm::npt::View;
    use crate::wishes::CrbPlace;
    use husk::engine::Locality;

    #[test]
    fn commands_lie_in_shared_memory_with_the_trapped_crb_and_with_the_private_one_they_do_not() {
        for (place, base, shared) in [(CrbPlace::Trapped, BASE, 2), (CrbPlace::Private, 0x2FFB_B000, 0)] {
            let layout = layout(base).unwrap();
            let pages = crb_pages(place, &layout);
            assert_eq!(shared_with_host(&pages).count(), shared, "{place:?}");
            // The page that the table calls the buffer is the one where commands are.
            let command = base + layout.buffer_offset(Locality::Zero) as u64;
            assert!(pages[1].1.contains(&command));
            assert_eq!(shared_with_host(&pages).any(|range| range.contains(&command)), shared > 0);
            assert_eq!(pages[0].1.start..pages[1].1.end, base..base + layout.window_bytes() as u64);
        }
    }

    #[test]
    fn what_the_layer_owns_no_guest_gets_as_memory() {
        for page in Page::ALL {
            let policy = page.policy();
            let owned = policy.layer == LayerUse::Owns;
            assert_eq!(owned, policy.guest != GuestGets::Memory, "{page:?}");
            assert_eq!(owned, page.view(None) == View::Nothing, "{page:?}");
        }
        assert_eq!(Page::TrappedBuffer.view(Some(0x1000)), View::Elsewhere(0x1000));
    }

    #[test]
    fn the_host_gets_what_devices_need_and_nothing_else_of_the_layers() {
        let shared = |page: &Page| page.policy().host == HostGets::All;
        let all = [Page::Devices, Page::TrappedRegisters, Page::TrappedBuffer];
        assert!(Page::ALL.iter().filter(|page| shared(page)).eq(&all));
    }
}
