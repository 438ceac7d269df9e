//! What the firmware supplies to the C library.

use core::ffi::{CStr, c_char, c_int, c_long};
use spin::Once;

/// The firmware's side.
#[derive(Clone, Copy, Debug)]
pub struct World {
    /// Milliseconds of a clock that nobody turns back (the Clock seam); 0 always, where there is none: then nothing that
    /// needs time to pass ever happens.
    pub now_ms: fn() -> u64,
    /// Stops the machine because the library called the named function.
    pub trap: fn(&'static str) -> !,
}

static WORLD: Once<World> = Once::new();

/// Supplies the world and the heap's memory, once, before the library is entered.
pub fn install(world: World, arena: &'static mut [u8]) {
    super::heap::supply(arena);
    WORLD.call_once(|| world);
}

/// Stops the machine in the name of a function.
pub(super) fn trap(name: &'static str) -> ! {
    match WORLD.get() {
        Some(world) => (world.trap)(name),
        // The library was entered before it was given a world: there is nobody to tell.
        None => loop {
            core::hint::spin_loop();
        },
    }
}

/// For C.
///
/// # Safety
/// `name` is a string constant.
#[unsafe(no_mangle)]
unsafe extern "C" fn husk_runtime_trap(name: *const c_char) -> ! {
    // SAFETY: by this function's contract.
    let name: &'static CStr = unsafe { CStr::from_ptr(name) };
    trap(name.to_str().unwrap_or("?"))
}

fn now_ms() -> u64 {
    WORLD.get().map_or(0, |world| (world.now_ms)())
}

/// `clock`, in microseconds (CLOCKS_PER_SEC of POSIX): the processor has done nothing else since boot. libtpms keeps it for a debugger.
#[cfg_attr(target_os = "none", unsafe(no_mangle))]
extern "C" fn clock() -> c_long {
    c_long::try_from(now_ms().saturating_mul(1000)).unwrap_or(c_long::MAX)
}

/// `struct timespec`.
#[repr(C)]
struct Timespec {
    seconds: i64,
    nanoseconds: c_long,
}

/// `clock_gettime`, for whichever clock: there is one, it counts from boot, and it is never set.
///
/// # Safety
/// `into` is valid for a write.
#[cfg_attr(target_os = "none", unsafe(no_mangle))]
unsafe extern "C" fn clock_gettime(_clock: c_int, into: *mut Timespec) -> c_int {
    let now_ms = now_ms();
    let seconds = i64::try_from(now_ms / 1000).unwrap_or(i64::MAX);
    let nanoseconds = c_long::try_from(now_ms % 1000 * 1_000_000).unwrap_or(0);
    // SAFETY: by this function's contract.
    unsafe { into.write(Timespec { seconds, nanoseconds }) };
    0
}
