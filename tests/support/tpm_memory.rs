//! A component's memory that is never given back, as a firmware's is.

use husk::release::session::SessionMemory;
use husk::volume::{STATE_BYTES_MAX, Workspace};
use husk::vtpm::Memory;

/// Memory for one component.
pub(crate) fn memory() -> Memory<'static> {
    Memory {
        durable: leaked([0; STATE_BYTES_MAX]),
        current: leaked([0; STATE_BYTES_MAX]),
        workspace: leaked(Workspace::new()),
        session: leaked(SessionMemory::new()),
    }
}

fn leaked<T>(value: T) -> &'static mut T {
    Box::leak(Box::new(value))
}
