//! A process that has no environment, no files and no end.

use super::{EBADF, EINVAL, ENOENT, ERANGE};
use core::ffi::{CStr, c_char, c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicI32, Ordering::Relaxed};

static ERRNO: AtomicI32 = AtomicI32::new(0);

pub(super) fn set_errno(error: c_int) {
    ERRNO.store(error, Relaxed);
}

macro_rules! c {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty $body:block)+) => {$(
        $(#[$doc])*
        #[cfg_attr(target_os = "none", unsafe(no_mangle))]
        pub(super) unsafe extern "C" fn $name($($argument: $type),*) -> $result $body
    )+};
}

c! {
    /// `__errno_location`: there is one thread, and one `errno`.
    fn __errno_location() -> *mut c_int {
        ERRNO.as_ptr()
    }

    /// `getenv`: the environment is empty.
    fn getenv(_name: *const c_char) -> *mut c_char {
        ptr::null_mut()
    }

    /// `secure_getenv`: likewise.
    fn secure_getenv(_name: *const c_char) -> *mut c_char {
        ptr::null_mut()
    }

    /// `atexit`: the image never exits, so nothing registered is ever due.
    fn atexit(_function: *const c_void) -> c_int {
        0
    }

    /// `fopen64`: there are no files.
    fn fopen64(_path: *const c_char, _mode: *const c_char) -> *mut c_void {
        set_errno(ENOENT);
        ptr::null_mut()
    }

    /// `__vdprintf_chk`: no file is open. What libtpms logs by this may hold data, and the console shows none.
    fn __vdprintf_chk(_file: c_int, _flag: c_int, _format: *const c_char, _arguments: *mut c_void) -> c_int {
        set_errno(EBADF);
        -1
    }

    /// `strerror`: the few errors that there are.
    fn strerror(error: c_int) -> *const c_char {
        message(error).as_ptr()
    }

    /// `strerror_r` of POSIX.
    fn __xpg_strerror_r(error: c_int, into: *mut c_char, room: usize) -> c_int {
        let text = message(error).to_bytes_with_nul();
        if room < text.len() {
            return ERANGE;
        }
        // SAFETY: room for `room` bytes.
        unsafe { ptr::copy_nonoverlapping(text.as_ptr(), into.cast(), text.len()) };
        0
    }
}

fn message(error: c_int) -> &'static CStr {
    match error {
        0 => c"Success",
        ENOENT => c"No such file or directory",
        EBADF => c"Bad file descriptor",
        EINVAL => c"Invalid argument",
        ERANGE => c"Numerical result out of range",
        _ => c"Unknown error",
    }
}

/// Streams that nobody opened.
#[cfg(target_os = "none")]
mod streams {
    /// A `FILE *` that is null.
    #[repr(transparent)]
    struct Stream(*const ());
    // SAFETY: it is null for ever.
    unsafe impl Sync for Stream {}

    #[unsafe(no_mangle)]
    static stderr: Stream = Stream(core::ptr::null());
    #[unsafe(no_mangle)]
    static stdin: Stream = Stream(core::ptr::null());
}

#[cfg(test)]
#[expect(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "the calls are what is tested"
)]
mod tests {
    use core::ffi::{CStr, c_char, c_int};

    mod theirs {
        use core::ffi::{c_char, c_int};
        unsafe extern "C" {
            pub(super) fn strerror(error: c_int) -> *const c_char;
            pub(super) fn __xpg_strerror_r(error: c_int, into: *mut c_char, room: usize) -> c_int;
        }
    }

    #[test]
    fn errors_have_the_names_that_the_system_gives_them() {
        for error in [0, super::ENOENT, super::EBADF, super::EINVAL, super::ERANGE] {
            let ours = unsafe { CStr::from_ptr(super::strerror(error)) };
            assert_eq!(ours, unsafe { CStr::from_ptr(theirs::strerror(error)) });
            for room in [0, 1, ours.count_bytes(), ours.count_bytes() + 1, 64] {
                let (mut our, mut their): ([c_char; 64], [c_char; 64]) = ([0; 64], [0; 64]);
                let result: c_int = unsafe { super::__xpg_strerror_r(error, our.as_mut_ptr(), room) };
                assert_eq!(result, unsafe { theirs::__xpg_strerror_r(error, their.as_mut_ptr(), room) });
                if result == 0 {
                    assert_eq!(our, their);
                }
            }
        }
    }
}
