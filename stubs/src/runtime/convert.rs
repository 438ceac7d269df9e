//! Numbers out of strings, and classes of characters, in the "C" locale.

use super::ERANGE;
use super::process::set_errno;
use core::ffi::{c_char, c_int, c_long, c_ulong};

/// What a number's text says: its sign, its digits' value unless that overflows, and how many bytes it has.
struct Number {
    negative: bool,
    magnitude: Option<u64>,
    bytes: usize,
}

/// Reads a number as `strtol` and `strtoul` do (C11 7.22.1.4).
///
/// # Safety
/// `text` is a string.
unsafe fn number(text: *const c_char, base: c_int) -> Number {
    // SAFETY: by the contract; nothing behind an end is ever asked for, since each byte is looked at only if the one before is not the end.
    let byte = |at: usize| unsafe { text.wrapping_add(at).cast::<u8>().read() };
    let mut at = 0;
    while matches!(byte(at), b' ' | b'\t'..=b'\r') {
        at += 1;
    }
    let negative = byte(at) == b'-';
    if matches!(byte(at), b'+' | b'-') {
        at += 1;
    }
    let digit = |at: usize, base: u32| char::from(byte(at)).to_digit(base);
    let hexadecimal = byte(at) == b'0' && byte(at + 1) | 0x20 == b'x' && digit(at + 2, 16).is_some();
    let base = match u32::try_from(base) {
        Ok(0 | 16) if hexadecimal => {
            at += 2;
            16
        }
        Ok(0) if byte(at) == b'0' => 8,
        Ok(0) => 10,
        Ok(base @ 2..=36) => base,
        _ => return Number { negative: false, magnitude: Some(0), bytes: 0 },
    };
    let first = at;
    let mut magnitude = Some(0_u64);
    while let Some(digit) = digit(at, base) {
        magnitude = magnitude.and_then(|value| value.checked_mul(base.into())?.checked_add(digit.into()));
        at += 1;
    }
    Number { negative, magnitude, bytes: if at == first { 0 } else { at } }
}

/// # Safety
/// `end` is null or valid for a write.
unsafe fn tell_end(text: *const c_char, number: &Number, end: *mut *mut c_char) {
    if !end.is_null() {
        // SAFETY: by this function's contract.
        unsafe { end.write(text.wrapping_add(number.bytes).cast_mut()) };
    }
}

/// `strtol`
///
/// # Safety
/// Of the C function of that name.
#[cfg_attr(target_os = "none", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn strtol(text: *const c_char, end: *mut *mut c_char, base: c_int) -> c_long {
    // SAFETY: a string.
    let number = unsafe { number(text, base) };
    // SAFETY: as C demands.
    unsafe { tell_end(text, &number, end) };
    let value = number.magnitude.and_then(|value| {
        if number.negative { 0_i64.checked_sub_unsigned(value) } else { c_long::try_from(value).ok() }
    });
    value.unwrap_or_else(|| {
        set_errno(ERANGE);
        if number.negative { c_long::MIN } else { c_long::MAX }
    })
}

/// `strtoul`
///
/// # Safety
/// Of the C function of that name.
#[cfg_attr(target_os = "none", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn strtoul(text: *const c_char, end: *mut *mut c_char, base: c_int) -> c_ulong {
    // SAFETY: a string.
    let number = unsafe { number(text, base) };
    // SAFETY: as C demands.
    unsafe { tell_end(text, &number, end) };
    match number.magnitude {
        Some(value) if number.negative => value.wrapping_neg(),
        Some(value) => value,
        None => {
            set_errno(ERANGE);
            c_ulong::MAX
        }
    }
}

/// Indices -128 to 255, as glibc has it: `char` may be signed.
const ENTRIES: usize = 384;
const OFFSET: usize = 128;

/// A table, and the pointer to its entry 0 that C asks for.
#[repr(C)]
struct Lookup<T: 'static> {
    zero: *const T,
}
// SAFETY: points to a constant.
unsafe impl<T> Sync for Lookup<T> {}

static CLASSES: [u16; ENTRIES] = classes();
static LOWER: [i32; ENTRIES] = lower();
static CLASSES_LOOKUP: Lookup<u16> = Lookup { zero: (&raw const CLASSES).cast::<u16>().wrapping_add(OFFSET) };
static LOWER_LOOKUP: Lookup<i32> = Lookup { zero: (&raw const LOWER).cast::<i32>().wrapping_add(OFFSET) };

/// `__ctype_b_loc`, behind `isdigit` and its like.
#[cfg_attr(target_os = "none", unsafe(no_mangle))]
pub(super) extern "C" fn __ctype_b_loc() -> *const *const u16 {
    &raw const CLASSES_LOOKUP.zero
}

/// `__ctype_tolower_loc`, behind `tolower`.
#[cfg_attr(target_os = "none", unsafe(no_mangle))]
pub(super) extern "C" fn __ctype_tolower_loc() -> *const *const i32 {
    &raw const LOWER_LOOKUP.zero
}

/// The bits of glibc's `<ctype.h>` on a little-endian machine, in their order.
const fn classes() -> [u16; ENTRIES] {
    let mut table = [0; ENTRIES];
    let mut c: u8 = 0;
    while c < 128 {
        let bits = [
            (c.is_ascii_uppercase(), 8),
            (c.is_ascii_lowercase(), 9),
            (c.is_ascii_alphabetic(), 10),
            (c.is_ascii_digit(), 11),
            (c.is_ascii_hexdigit(), 12),
            (c == b' ' || (c >= b'\t' && c <= b'\r'), 13),
            (c.is_ascii_graphic() || c == b' ', 14),
            (c.is_ascii_graphic(), 15),
            (c == b' ' || c == b'\t', 0),
            (c.is_ascii_control(), 1),
            (c.is_ascii_punctuation(), 2),
            (c.is_ascii_alphanumeric(), 3),
        ];
        let mut bit = 0;
        while bit < bits.len() {
            if bits[bit].0 {
                table[OFFSET + c as usize] |= 1 << bits[bit].1;
            }
            bit += 1;
        }
        c += 1;
    }
    table
}

const fn lower() -> [i32; ENTRIES] {
    let mut table = [0; ENTRIES];
    let mut at = 0;
    while at < ENTRIES {
        // Below 384, so nothing is cut off.
        #[expect(clippy::cast_possible_truncation, reason = "below 384")]
        #[expect(clippy::cast_possible_wrap, reason = "below 384")]
        let c = at as i32 - OFFSET as i32;
        table[at] = if c >= 'A' as i32 && c <= 'Z' as i32 { c + 32 } else { c };
        at += 1;
    }
    table
}

#[cfg(test)]
#[expect(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "the calls are what is tested"
)]
mod tests {
    use core::ffi::{CStr, c_char, c_int, c_long, c_ulong};
    use core::ptr;

    mod theirs {
        use core::ffi::{c_char, c_int, c_long, c_ulong};
        unsafe extern "C" {
            pub(super) fn strtol(text: *const c_char, end: *mut *mut c_char, base: c_int) -> c_long;
            pub(super) fn strtoul(text: *const c_char, end: *mut *mut c_char, base: c_int) -> c_ulong;
            pub(super) safe fn __ctype_b_loc() -> *const *const u16;
            pub(super) safe fn __ctype_tolower_loc() -> *const *const i32;
        }
    }

    const NUMBERS: [&CStr; 22] = [
        c"",
        c"0",
        c"-",
        c"+7",
        c" \t\n\x0B\x0C\r42x",
        c"-42",
        c"0x",
        c"0x1F",
        c"0XfFg",
        c"-0x10",
        c"077",
        c"08",
        c"z",
        c"Zz9",
        c"9223372036854775807",
        c"9223372036854775808",
        c"-9223372036854775808",
        c"-9223372036854775809",
        c"18446744073709551615",
        c"18446744073709551616",
        c"-18446744073709551616",
        c"0xg",
    ];

    #[test]
    fn numbers_are_read_as_by_the_system() {
        type Read<T> = unsafe extern "C" fn(*const c_char, *mut *mut c_char, c_int) -> T;
        fn same<T: PartialEq + core::fmt::Debug>(ours: Read<T>, theirs: Read<T>) {
            for text in NUMBERS {
                for base in [0, 2, 8, 10, 16, 36, 1, 37] {
                    let (mut our_end, mut their_end) = (ptr::null_mut(), ptr::null_mut());
                    let our = unsafe { ours(text.as_ptr(), &raw mut our_end, base) };
                    let their = unsafe { theirs(text.as_ptr(), &raw mut their_end, base) };
                    assert_eq!(our, their, "{text:?} in base {base}");
                    // Of a base that there is not, C says nothing about the end.
                    let said = (2..=36).contains(&base) || base == 0;
                    assert!(!said || our_end == their_end, "{text:?} in base {base}");
                }
            }
        }
        same::<c_long>(super::strtol, theirs::strtol);
        same::<c_ulong>(super::strtoul, theirs::strtoul);
    }

    #[test]
    fn characters_are_classed_as_by_the_system_in_the_c_locale() {
        for c in 0..256_usize {
            unsafe {
                let (ours, theirs) = (*super::__ctype_b_loc(), *theirs::__ctype_b_loc());
                assert_eq!(ours.add(c).read(), theirs.add(c).read(), "{c}");
                let (ours, theirs) = (*super::__ctype_tolower_loc(), *theirs::__ctype_tolower_loc());
                assert_eq!(ours.add(c).read(), theirs.add(c).read(), "{c}");
            }
        }
    }
}
