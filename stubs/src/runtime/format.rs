//! The tests of `c/format.c`: what it formats is what the system formats.

use core::ffi::{CStr, c_char, c_int, c_void};
use std::string::String;

unsafe extern "C" {
    fn husk___snprintf_chk(
        bytes: *mut c_char,
        room: usize,
        flag: c_int,
        real_room: usize,
        format: *const c_char,
        ...
    ) -> c_int;
    fn husk___asprintf_chk(made: *mut *mut c_char, flag: c_int, format: *const c_char, ...) -> c_int;
    fn snprintf(bytes: *mut c_char, room: usize, format: *const c_char, ...) -> c_int;
}

/// Formats one argument by both and compares bytes and count, in rooms of many sizes.
macro_rules! same {
    ($format:expr, $($argument:expr),*) => {
        for room in [0_usize, 1, 2, 7, 64] {
            let (mut ours, mut theirs): ([c_char; 64], [c_char; 64]) = ([0x55; 64], [0x55; 64]);
            let our = unsafe { husk___snprintf_chk(ours.as_mut_ptr(), room, 1, 64, $format.as_ptr(), $($argument),*) };
            let their = unsafe { snprintf(theirs.as_mut_ptr(), room, $format.as_ptr(), $($argument),*) };
            assert_eq!((our, ours), (their, theirs), "{:?} in {room}", $format);
        }
    };
}

/// Every flag with every width and precision.
fn shapes() -> impl Iterator<Item = String> {
    let flags = ["", "-", "0", "+", " ", "#", "-0", "+0", "#0", "-+", "0 ", "#-"];
    let widths = ["", "1", "5", "12"];
    let precisions = ["", ".", ".0", ".1", ".4", ".9"];
    flags.into_iter().flat_map(move |flag| {
        widths.into_iter().flat_map(move |width| {
            precisions.into_iter().map(move |precision| std::format!("%{flag}{width}{precision}"))
        })
    })
}

fn zero_ended(text: &str) -> std::ffi::CString {
    std::ffi::CString::new(text).expect("no zero inside")
}

#[test]
fn integers_are_formatted_as_by_the_system() {
    for shape in shapes() {
        for conversion in ["d", "i", "u", "x", "X", "o", "hd", "hhu", "hhd", "hx"] {
            // The system's own compiler warns of a sign on an unsigned number, and ignores it as we do.
            let format = zero_ended(&std::format!("<{shape}{conversion}>"));
            for value in [0, 1, -1, 42, 4711, c_int::MAX, c_int::MIN] {
                same!(format, value);
            }
        }
        for conversion in ["ld", "lu", "lx", "zu", "jd", "td", "lld", "llX", "lo"] {
            let format = zero_ended(&std::format!("<{shape}{conversion}>"));
            for value in [0, 1, -1, 0x1234_5678_9ABC, i64::MAX, i64::MIN] {
                same!(format, value);
            }
        }
    }
}

#[test]
fn strings_characters_and_pointers_are_formatted_as_by_the_system() {
    for shape in shapes().filter(|shape| !shape.contains(['0', '+', '#', ' '])) {
        let (text, character) =
            (zero_ended(&std::format!("<{shape}s>")), zero_ended(&std::format!("<{shape}c>")));
        for value in [c"", c"a", c"husk", c"longer than twelve"] {
            same!(text, value.as_ptr());
        }
        same!(character, c_int::from(b'x'));
    }
    for width in ["", "20", "-20"] {
        let pointer = zero_ended(&std::format!("<%{width}p>"));
        same!(pointer, core::ptr::null::<c_void>());
        same!(pointer, core::ptr::without_provenance::<c_void>(0xDEAD_BEEF));
    }
    same!(c"100%%", 0);
    same!(c"%*d|%-*d|%.*s|%s", 7, 42, 7, 42, 3, c"abcdef".as_ptr(), c"end".as_ptr());
    same!(c"%*d|%.*d", -7, 42, -1, 42);
}

#[test]
fn a_string_is_made_as_long_as_it_must_be() {
    super::heap::tests::with_memory(|| {
        let mut made = core::ptr::null_mut();
        let count =
            unsafe { husk___asprintf_chk(&raw mut made, 1, c"%s-%04d".as_ptr(), c"husk".as_ptr(), 42) };
        assert_eq!((count, unsafe { CStr::from_ptr(made) }), (9, c"husk-0042"));
        unsafe { super::heap::free(made.cast()) };
    });
}
