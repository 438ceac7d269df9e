//! Strings that end with a zero.

use super::heap::malloc;
use super::memory::copy;
use core::ffi::{CStr, c_char, c_int};
use core::ptr;

/// The bytes of a string, without its end.
///
/// # Safety
/// `text` is a string that stays as it is for as long as the result lives.
unsafe fn bytes<'t>(text: *const c_char) -> &'t [u8] {
    // SAFETY: by this function's contract.
    unsafe { CStr::from_ptr(text) }.to_bytes()
}

/// The bytes of two strings.
///
/// # Safety
/// As [`bytes`], for each.
unsafe fn both<'t>(one: *const c_char, other: *const c_char) -> (&'t [u8], &'t [u8]) {
    // SAFETY: by this function's contract.
    let one = unsafe { bytes(one) };
    // SAFETY: likewise.
    (one, unsafe { bytes(other) })
}

/// The place `at` bytes into a string, or null.
fn place(text: *const c_char, at: Option<usize>) -> *mut c_char {
    at.map_or(ptr::null_mut(), |at| text.wrapping_add(at).cast_mut())
}

fn low_byte(c: c_int) -> u8 {
    c.to_le_bytes()[0]
}

/// How two strings with their ends compare: the difference at the first byte that differs.
fn difference(one: &[u8], other: &[u8], count_max: usize) -> c_int {
    let end = core::iter::once(&0);
    let pairs = one.iter().chain(end.clone()).zip(other.iter().chain(end)).take(count_max);
    let mut differences = pairs.map(|(one, other)| c_int::from(*one) - c_int::from(*other));
    differences.find(|difference| *difference != 0).unwrap_or(0)
}

macro_rules! c {
    ($($(#[$doc:meta])* fn $name:ident($($argument:ident: $type:ty),*) -> $result:ty $body:block)+) => {$(
        $(#[$doc])*
        ///
        /// # Safety
        /// Of the C function of that name.
        #[cfg_attr(target_os = "none", unsafe(no_mangle))]
        pub(super) unsafe extern "C" fn $name($($argument: $type),*) -> $result $body
    )+};
}

c! {
    /// `strcmp`
    fn strcmp(one: *const c_char, other: *const c_char) -> c_int {
        // SAFETY: both are strings.
        let (one, other) = unsafe { both(one, other) };
        difference(one, other, usize::MAX)
    }

    /// `strncmp`, whose strings may lack an end within `count` bytes.
    fn strncmp(one: *const c_char, other: *const c_char, count: usize) -> c_int {
        for at in 0..count {
            // SAFETY: nothing before was an end, and `count` is not reached.
            let one = unsafe { one.wrapping_add(at).cast::<u8>().read() };
            // SAFETY: likewise.
            let other = unsafe { other.wrapping_add(at).cast::<u8>().read() };
            if one != other || one == 0 {
                return c_int::from(one) - c_int::from(other);
            }
        }
        0
    }

    /// `strcpy`
    fn strcpy(to: *mut c_char, from: *const c_char) -> *mut c_char {
        // SAFETY: a string.
        let count = unsafe { bytes(from) }.len() + 1;
        // SAFETY: room for it with its end.
        unsafe { copy(to.cast(), from.cast(), count) };
        to
    }

    /// `strncpy`: at most `count` bytes, filled up with zeros.
    fn strncpy(to: *mut c_char, from: *const c_char, count: usize) -> *mut c_char {
        let mut ended = false;
        for at in 0..count {
            let byte = if ended {
                0
            } else {
                // SAFETY: nothing before was an end, and `count` is not reached.
                unsafe { from.wrapping_add(at).read() }
            };
            ended |= byte == 0;
            // SAFETY: room for `count` bytes.
            unsafe { to.wrapping_add(at).write(byte) };
        }
        to
    }

    /// `strcat`
    fn strcat(to: *mut c_char, from: *const c_char) -> *mut c_char {
        // SAFETY: a string.
        let count = unsafe { bytes(to) }.len();
        // SAFETY: another one, and room behind the first.
        unsafe { strcpy(to.wrapping_add(count), from) };
        to
    }

    /// `strdup`
    fn strdup(text: *const c_char) -> *mut c_char {
        // SAFETY: a string.
        let count = unsafe { bytes(text) }.len() + 1;
        let made: *mut c_char = malloc(count).cast();
        if !made.is_null() {
            // SAFETY: a fresh block of `count` bytes.
            unsafe { copy(made.cast(), text.cast(), count) };
        }
        made
    }

    /// `strchr`, which also finds the end.
    fn strchr(text: *const c_char, wanted: c_int) -> *mut c_char {
        let wanted = low_byte(wanted);
        // SAFETY: a string.
        let all = unsafe { bytes(text) };
        place(text, if wanted == 0 { Some(all.len()) } else { all.iter().position(|byte| *byte == wanted) })
    }

    /// `strrchr`, likewise.
    fn strrchr(text: *const c_char, wanted: c_int) -> *mut c_char {
        let wanted = low_byte(wanted);
        // SAFETY: a string.
        let all = unsafe { bytes(text) };
        place(text, if wanted == 0 { Some(all.len()) } else { all.iter().rposition(|byte| *byte == wanted) })
    }

    /// `strstr`
    fn strstr(text: *const c_char, wanted: *const c_char) -> *mut c_char {
        // SAFETY: both are strings.
        let (all, wanted) = unsafe { both(text, wanted) };
        place(text, (0..=all.len()).find(|at| all[*at..].starts_with(wanted)))
    }

    /// `strspn`
    fn strspn(text: *const c_char, set: *const c_char) -> usize {
        // SAFETY: both are strings.
        let (all, set) = unsafe { both(text, set) };
        all.iter().take_while(|byte| set.contains(byte)).count()
    }

    /// `strcspn`
    fn strcspn(text: *const c_char, set: *const c_char) -> usize {
        // SAFETY: both are strings.
        let (all, set) = unsafe { both(text, set) };
        all.iter().take_while(|byte| !set.contains(byte)).count()
    }

    /// `strpbrk`
    fn strpbrk(text: *const c_char, set: *const c_char) -> *mut c_char {
        // SAFETY: both are strings.
        let (all, set) = unsafe { both(text, set) };
        place(text, all.iter().position(|byte| set.contains(byte)))
    }
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
            pub(super) fn strcmp(one: *const c_char, other: *const c_char) -> c_int;
            pub(super) fn strncmp(one: *const c_char, other: *const c_char, count: usize) -> c_int;
            pub(super) fn strncpy(to: *mut c_char, from: *const c_char, count: usize) -> *mut c_char;
            pub(super) fn strcat(to: *mut c_char, from: *const c_char) -> *mut c_char;
            pub(super) fn strchr(text: *const c_char, wanted: c_int) -> *mut c_char;
            pub(super) fn strrchr(text: *const c_char, wanted: c_int) -> *mut c_char;
            pub(super) fn strstr(text: *const c_char, wanted: *const c_char) -> *mut c_char;
            pub(super) fn strspn(text: *const c_char, set: *const c_char) -> usize;
            pub(super) fn strcspn(text: *const c_char, set: *const c_char) -> usize;
            pub(super) fn strpbrk(text: *const c_char, set: *const c_char) -> *mut c_char;
        }
    }

    const TEXTS: [&CStr; 9] =
        [c"", c"a", c"b", c"ab", c"abc", c"abcabd", c"SHA2-256", c"\xFF\xFE", c"provider=default,fips=yes"];

    #[test]
    fn strings_compare_and_are_searched_as_by_the_system() {
        for one in TEXTS {
            let text = one.as_ptr();
            for other in TEXTS {
                let set = other.as_ptr();
                unsafe {
                    assert_eq!(super::strcmp(text, set).signum(), theirs::strcmp(text, set).signum());
                    assert_eq!(super::strstr(text, set), theirs::strstr(text, set), "{one:?} {other:?}");
                    assert_eq!(super::strspn(text, set), theirs::strspn(text, set));
                    assert_eq!(super::strcspn(text, set), theirs::strcspn(text, set));
                    assert_eq!(super::strpbrk(text, set), theirs::strpbrk(text, set));
                    for count in 0..10 {
                        let difference = super::strncmp(text, set, count);
                        assert_eq!(difference.signum(), theirs::strncmp(text, set, count).signum());
                    }
                }
            }
            for wanted in [0, c_int::from(b'a'), c_int::from(b'b'), 0xFF, -2, c_int::from(b'=')] {
                unsafe {
                    assert_eq!(super::strchr(text, wanted), theirs::strchr(text, wanted));
                    assert_eq!(super::strrchr(text, wanted), theirs::strrchr(text, wanted));
                }
            }
        }
    }

    #[test]
    fn strings_are_copied_as_by_the_system() {
        for text in TEXTS {
            for count in 0..30 {
                let (mut ours, mut other): ([c_char; 64], [c_char; 64]) = ([0x55; 64], [0x55; 64]);
                unsafe {
                    super::strncpy(ours.as_mut_ptr(), text.as_ptr(), count);
                    theirs::strncpy(other.as_mut_ptr(), text.as_ptr(), count);
                }
                assert_eq!(ours, other);
            }
            let (mut ours, mut other): ([c_char; 64], [c_char; 64]) = ([0; 64], [0; 64]);
            for buffer in [&mut ours, &mut other] {
                unsafe { super::strcpy(buffer.as_mut_ptr(), c"start".as_ptr()) };
            }
            unsafe {
                super::strcat(ours.as_mut_ptr(), text.as_ptr());
                theirs::strcat(other.as_mut_ptr(), text.as_ptr());
            }
            assert_eq!(ours, other);
        }
    }
}
