//! The library's only source of randomness: the host of the running call.
//!
//! libtpms draws seeds from libcrypto's generator and, where that fails, silently from `rand()`. Both ways are closed.
//! `_plat__GetEntropy` is defined here, so the archive member that holds libtpms' version and its `rand()` is not
//! linked (were it linked too, the linker would report two definitions). libcrypto's own draws (ECC keys, blinding)
//! come through the `RAND_METHOD` below. Before it makes an RSA key libcrypto also asks whether it has a generator of its own
//! (`RAND_get0_private`), and makes one if not, from the clock, the process and the system's noise: it gets one that has
//! nothing to give and needs nothing to begin with. Outside a call there is no host, and so no randomness.
//!
//! # Soundness
//! The C side passes a buffer of the stated length that it owns and that nobody else looks at meanwhile.

use crate::callbacks::with_host;
use crate::extern_c::{RAND_set_DRBG_type, RAND_set_rand_method, RandMethod};
use core::ffi::{CStr, c_double, c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicBool, Ordering};

/// Success and failure of libcrypto's random functions.
const RAND_OK: c_int = 1;
const RAND_FAILED: c_int = 0;

static METHOD: RandMethod = RandMethod {
    seed: Some(seed),
    bytes: Some(bytes),
    cleanup: None,
    add: Some(add),
    pseudorand: Some(bytes),
    status: Some(status),
};

/// A generator of libcrypto's default provider that yields what it was told to, and so here nothing but errors.
const WITHOUT_ENTROPY: &CStr = c"TEST-RAND";

/// Makes libcrypto draw from the host. Returns whether it will.
pub(crate) fn route() -> bool {
    // SAFETY: `METHOD` is static and has the layout of the C structure.
    let routed = unsafe { RAND_set_rand_method(&raw const METHOD) } == RAND_OK;
    routed && has_own_generator()
}

/// Chooses libcrypto's own generator: once a process, since it refuses when that has begun. Returns whether it was chosen.
fn has_own_generator() -> bool {
    static CHOSEN: AtomicBool = AtomicBool::new(false);
    if CHOSEN.load(Ordering::Acquire) {
        return true;
    }
    let (default, none) = (ptr::null_mut(), ptr::null());
    // SAFETY: the name is a C string that is copied; everything else may be null.
    let chosen =
        unsafe { RAND_set_DRBG_type(default, WITHOUT_ENTROPY.as_ptr(), none, none, none) } == RAND_OK;
    CHOSEN.store(chosen, Ordering::Release);
    chosen
}

/// Fills `len` bytes at `buffer` from the host; false if it has none.
///
/// # Safety
/// `buffer` is valid for `len` bytes of writes and nobody else uses it.
unsafe fn fill(buffer: *mut u8, len: usize) -> bool {
    if buffer.is_null() || len == 0 {
        return len == 0;
    }
    // SAFETY: by this function's contract; the bytes are cleared before a reference to them exists.
    unsafe { buffer.write_bytes(0, len) };
    // SAFETY: as above, and now they are initialised.
    let into = unsafe { core::slice::from_raw_parts_mut(buffer, len) };
    with_host(|host| host.entropy(into)).unwrap_or(false)
}

/// Replaces libtpms' function of that name: the number of bytes written, or -1 if there is no entropy. A request for no
/// bytes announces a startup (TPM 2.0 part 4, `_plat__GetEntropy`).
///
/// # Safety
/// `buffer` is valid for `len` bytes of writes and nobody else uses it.
#[unsafe(no_mangle)]
unsafe extern "C" fn _plat__GetEntropy(buffer: *mut u8, len: u32) -> i32 {
    let (Ok(count), Ok(bytes)) = (i32::try_from(len), usize::try_from(len)) else { return -1 };
    // SAFETY: by this function's contract.
    if unsafe { fill(buffer, bytes) } { count } else { -1 }
}

/// `getentropy`, which libcrypto prefers to a system call. It draws only by the method below, so this is never asked; should it be, the
/// answer is the host's, or a failure.
///
/// # Safety
/// `buffer` is valid for `len` bytes of writes and nobody else uses it.
#[cfg(target_os = "none")]
#[unsafe(no_mangle)]
unsafe extern "C" fn getentropy(buffer: *mut u8, len: usize) -> c_int {
    // SAFETY: by this function's contract.
    if unsafe { fill(buffer, len) } { 0 } else { -1 }
}

unsafe extern "C" fn bytes(buffer: *mut u8, len: c_int) -> c_int {
    let Ok(len) = usize::try_from(len) else { return RAND_FAILED };
    // SAFETY: libcrypto passes a buffer of that length.
    if unsafe { fill(buffer, len) } { RAND_OK } else { RAND_FAILED }
}

/// What others call randomness is not mixed in: the host's needs none.
extern "C" fn seed(_buffer: *const c_void, _len: c_int) -> c_int {
    RAND_OK
}

/// As [`seed`].
extern "C" fn add(_buffer: *const c_void, _len: c_int, _bits: c_double) -> c_int {
    RAND_OK
}

/// Whether there is a source is known only when it is asked.
extern "C" fn status() -> c_int {
    RAND_OK
}
