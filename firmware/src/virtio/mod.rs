//! Devices of the firmware's own: the disk with the sealed volume, and the channel to broker and processor.
//!
//! **What.** [`disk`] is the volume on a virtio-blk device, [`post`] frames with tags on a virtio-console's byte stream; both are
//! pure, above one trait each. `hardware` joins them to queues in the layer's memory (crate `virtio-drivers`).
//! **Trust.** None: both devices are the host's. What they carry is sealed or signed; here only shapes are checked.
//! **Laws.** Every wait ends. What is lost, short, late, out of order or wrong is a fault or no answer, never another
//! answer. A device that kept a buffer too long never gets another, and the buffer is never used again.
//! **Not here.** Keeping the guest away from them: `svm`.

pub mod disk;
mod fault;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "gives devices addresses of the layer's memory, accesses ports and registers")]
pub mod hardware;
pub mod post;

pub use fault::DeviceFault;

/// A device of bus 0, by its slot; its function is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(pub u8);

/// Where the launcher puts the disk. Which device is which is decided by its place, never by what it says.
pub const VOLUME_SLOT: Slot = Slot(0x10);
/// Where the launcher puts the channel.
pub const CHANNEL_SLOT: Slot = Slot(0x11);
/// Where the launcher puts the device below the guest's disk, if there is one.
pub const GUEST_DISK_SLOT: Slot = Slot(0x12);
/// The firmware's own devices: no guest sees or reaches them.
pub const OWN_SLOTS: [Slot; 2] = [VOLUME_SLOT, CHANNEL_SLOT];
