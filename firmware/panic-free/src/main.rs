//! The component's parsers and its volume, linked alone, so that one can see whether a panic is reachable in them.
//!
//! **What.** A program that is never run. It holds every function that `kept` names, optimised as one, and what they reach.
//! `cargo xtask image` links it and looks who can come to `husk_panic_is_reachable`: nobody but the functions in `exceptions.txt`, which
//! are not ours.
//! **Trust.** The compiler's own proof: a panic that it could not rule out is in the program.
//! **Laws.** No bytes of a disk, a channel, a processor or a guest bring the component down.
//! **Not here.** P-384 (its arithmetic keeps assertions that no compiler sees through) and with it who greets a broker; the
//! engine, which is C.
//!
//! # Soundness
//! Two functions have names for the linker; nothing else defines those names. No pointer is read.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
mod kept;

#[cfg(target_os = "none")]
#[panic_handler]
fn panicked(_: &core::panic::PanicInfo<'_>) -> ! {
    husk_panic_is_reachable()
}

/// Where every panic ends.
#[cfg(target_os = "none")]
#[inline(never)]
#[expect(unsafe_code, reason = "its name is looked for in the program")]
#[unsafe(no_mangle)]
extern "C" fn husk_panic_is_reachable() -> ! {
    loop {
        core::hint::black_box(());
    }
}

/// What keeps all of it in the program.
#[cfg(target_os = "none")]
#[expect(unsafe_code, reason = "the linker begins here")]
#[unsafe(no_mangle)]
extern "C" fn _start() {
    kept::keep();
}

#[cfg(not(target_os = "none"))]
fn main() {
    println!("husk-panic-free is linked for bare metal and never run: see `cargo xtask image`");
}
