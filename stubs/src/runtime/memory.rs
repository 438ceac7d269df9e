//! Bytes. (`memcpy`, `memmove`, `memset`, `memcmp`, `bcmp` and `strlen` come with the compiler.)

use super::world::trap;
use core::ffi::{c_int, c_void};
use core::ptr;

/// Copies between two distinct objects.
///
/// # Safety
/// Both are valid for `bytes`, and do not overlap.
pub(super) unsafe fn copy(to: *mut u8, from: *const u8, bytes: usize) {
    // SAFETY: by this function's contract.
    unsafe { ptr::copy_nonoverlapping(from, to, bytes) };
}

/// `memcpy` with the size of the destination, which the compiler knew.
///
/// # Safety
/// As `memcpy`.
#[cfg_attr(target_os = "none", unsafe(no_mangle))]
unsafe extern "C" fn __memcpy_chk(
    to: *mut c_void,
    from: *const c_void,
    bytes: usize,
    room: usize,
) -> *mut c_void {
    if room < bytes {
        trap("__memcpy_chk");
    }
    // SAFETY: by this function's contract.
    unsafe { copy(to.cast(), from.cast(), bytes) };
    to
}

/// `memset`, likewise.
///
/// # Safety
/// As `memset`.
#[cfg_attr(target_os = "none", unsafe(no_mangle))]
unsafe extern "C" fn __memset_chk(to: *mut c_void, value: c_int, bytes: usize, room: usize) -> *mut c_void {
    if room < bytes {
        trap("__memset_chk");
    }
    let [value, ..] = value.to_le_bytes();
    // SAFETY: by this function's contract.
    unsafe { to.cast::<u8>().write_bytes(value, bytes) };
    to
}

/// `memchr`.
///
/// # Safety
/// As `memchr`.
#[cfg_attr(target_os = "none", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn memchr(bytes: *const c_void, wanted: c_int, count: usize) -> *mut c_void {
    let [wanted, ..] = wanted.to_le_bytes();
    for at in 0..count {
        let byte = bytes.cast::<u8>().wrapping_add(at);
        // SAFETY: by this function's contract, as nothing before was the wanted byte.
        if unsafe { byte.read() } == wanted {
            return byte.cast_mut().cast();
        }
    }
    ptr::null_mut()
}

#[cfg(test)]
#[expect(clippy::undocumented_unsafe_blocks, reason = "the calls are what is tested")]
mod tests {
    use core::ffi::{c_int, c_void};

    mod theirs {
        use core::ffi::{c_int, c_void};
        unsafe extern "C" {
            pub(super) fn memchr(bytes: *const c_void, wanted: c_int, count: usize) -> *mut c_void;
        }
    }

    #[test]
    fn memchr_finds_what_the_system_finds() {
        let bytes = b"abc\0def\xFF\xFE";
        for wanted in [c_int::from(b'a'), 0, 0xFF, -1, -2, 0x161, c_int::from(b'z')] {
            for count in 0..=bytes.len() {
                let at: *const c_void = bytes.as_ptr().cast();
                assert_eq!(unsafe { super::memchr(at, wanted, count) }, unsafe {
                    theirs::memchr(at, wanted, count)
                });
            }
        }
    }
}
