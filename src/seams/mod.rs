//! What the firmware supplies: the seams between the component and its world.
//!
//! **What.** One trait for each thing the component cannot make itself, gathered in one [`Platform`] value.
//! **Trust.** [`Entropy`] and [`Clock`] are trusted to be what they say; the firmware's [`Reporter`] is trusted to
//! authenticate the processor's answers. [`Disk`], [`Channel`] and what [`Console`] shows belong to the enemy.
//! **Laws.** Every call is bounded in time by its implementer. No seam has a default that loses security: an absent
//! clock is absent, not a fake one.
//! **Not here.** Implementations: `firmware/`, `tools/vtpmd` and `tests/support`.

mod cells;
mod channel;
mod clock;
mod console;
mod disk;
mod entropy;
mod guest_memory;
mod guest_page;
mod reporter;

pub use cells::Cells;
pub use channel::{Channel, ChannelError};
pub use clock::Clock;
pub use console::Console;
pub use disk::{Disk, DiskError, Geometry};
pub use entropy::{Entropy, EntropyError};
pub use guest_memory::{BadAddress, GuestMemory};
pub use guest_page::GuestPage;
pub use reporter::{DerivedKeyRequest, REPORT_BYTES, REPORT_DATA_BYTES, Reporter, ReporterError};

/// Everything the world supplies, in one value that the firmware lends for each call.
#[expect(missing_debug_implementations, reason = "the seams are trait objects of the firmware")]
pub struct Platform<'p> {
    /// The disk that holds the sealed volume; the enemy owns it.
    pub disk: &'p mut dyn Disk,
    /// The pipe to the broker; the enemy owns it.
    pub channel: &'p mut dyn Channel,
    /// Attestation reports of this very VM.
    pub reporter: &'p mut dyn Reporter,
    /// Entropy of the processor, health-tested.
    pub entropy: &'p mut dyn Entropy,
    /// A trusted clock (Secure TSC), where the machine has one.
    pub clock: Option<&'p dyn Clock>,
    /// Where static text and codes may be shown; the host reads it.
    pub console: &'p mut dyn Console,
}
