//! The guest's disk: a virtio block device that reads and writes the guest's memory, and nobody else's.
//!
//! **What.** The guest drives a device of virtio's legacy interface, which the layer makes up: [`Function`] is what PCI shows of it, [`Disk`] its registers. Below it is the
//! host's device, which only the layer drives. Its queue lies in the layer's memory, and [`Queue`] carries over what the guest queues: a request is offered when every address of it
//! is the guest's memory. So the layer stands where an IOMMU would, and judges where one could not: address 0xFEEx_xxxx is no memory either.
//! **Trust.** None in the guest's ring, which changes while it is read; every descriptor is copied once. The device is the host's, and what it returns counts only if it was offered.
//! **Laws.** The device is given addresses of the guest's memory and no others. What it may still read of its queue does not change. Data is never copied. A device that
//! was ended because a queue was none says so in its status, and by no interrupt.
//! **Not here.** Which memory is the guest's, and its exits: `svm`. What a sector holds: that is between guest and host.

mod disk;
#[cfg(test)]
mod fake;
mod function;
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "gives a device addresses of memory, and reads what it writes there")]
mod hardware;
mod queue;
#[cfg(test)]
mod tests;

pub use disk::{About, Device, Disk};
pub use function::Function;
#[cfg(target_os = "none")]
pub use hardware::{Hardware, open, pages};
pub use queue::{Descriptor, Queue, Rings, SLOTS, Unsound};

use core::ops::Range;

/// The guest's memory.
pub trait Memory {
    /// Whether all of a range is the guest's memory.
    fn is_guests(&self, range: &Range<u64>) -> bool;

    /// Copies guest bytes at `address`; false if they are not all the guest's memory.
    fn read(&self, address: u64, into: &mut [u8]) -> bool;

    /// Copies bytes to the guest at `address`; false if that is not all the guest's memory.
    fn write(&mut self, address: u64, from: &[u8]) -> bool;
}
