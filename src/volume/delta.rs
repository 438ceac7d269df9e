//! A change as copies of the old state and literal bytes (`format.md` §5).
//!
//! **What.** [`encode`] finds what two states share, also where it moved; [`apply`] makes the new state of the old.
//! **Trust.** None in a delta: authentic ones were written by this code, but `apply` is total over all bytes.
//! **Laws.** What `encode` writes, `apply` turns into exactly the new state. Both are bounded by the states' sizes.
//! **Not here.** Encryption, padding to units.

use crate::bytes::Reader;

/// Bytes of a window of the old state that the index knows.
const WINDOW_BYTES: usize = 16;
/// The shortest copy that is worth its three numbers.
const COPY_BYTES_MIN: usize = 8;
/// Slots of the index.
const SLOTS: usize = 4096;
/// The slot is empty.
const EMPTY: u32 = u32::MAX;

/// Where windows of the old state lie, by hash. Holds offsets only, nothing secret.
#[derive(Debug)]
pub struct WindowIndex([u32; SLOTS]);

impl WindowIndex {
    /// Memory for an index, which is filled before each use. All zeros, so that an image need not carry it.
    #[must_use]
    pub const fn new() -> Self {
        Self([0; SLOTS])
    }

    fn build(&mut self, old: &[u8]) {
        self.0.fill(EMPTY);
        for (at, window) in (0..EMPTY).step_by(WINDOW_BYTES).zip(old.chunks_exact(WINDOW_BYTES)) {
            let slot = &mut self.0[slot_of(window)];
            if *slot == EMPTY {
                *slot = at;
            }
        }
    }

    /// Where the old state may hold the bytes that `new` begins with.
    fn find(&self, new: &[u8]) -> Option<usize> {
        let window = new.get(..WINDOW_BYTES)?;
        let at = self.0[slot_of(window)];
        (at != EMPTY).then_some(at as usize)
    }
}

impl Default for WindowIndex {
    fn default() -> Self {
        Self::new()
    }
}

fn slot_of(window: &[u8]) -> usize {
    // 64-bit FNV-1a; its quality matters for size only, never for correctness.
    let hash = window.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash >> 40) as usize % SLOTS
}

/// A stretch of the new state that lies at `from` in the old one.
#[derive(Clone, Copy)]
struct Copy {
    from: usize,
    len: usize,
}

fn common_prefix(a: &[u8], b: &[u8]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// The copy to use at `at`, if one is long enough: first where the last one would go on, then where the index points.
fn copy_at(old: &[u8], new: &[u8], at: usize, shift: isize, index: &WindowIndex) -> Option<Copy> {
    let rest = new.get(at..)?;
    let least = COPY_BYTES_MIN.min(rest.len());
    let try_from = |from: usize| {
        let len = common_prefix(old.get(from..)?, rest);
        (len >= least && len > 0).then_some(Copy { from, len })
    };
    at.checked_add_signed(shift).and_then(try_from).or_else(|| index.find(rest).and_then(try_from))
}

/// Writes the delta from `old` to `new` into `out`; returns its length in bytes, or `None` if `out` is too small.
pub fn encode(old: &[u8], new: &[u8], index: &mut WindowIndex, out: &mut [u8]) -> Option<usize> {
    index.build(old);
    let mut writer = Writer { out, at: 0 };
    writer.number(new.len())?;
    let (mut at, mut shift) = (0, 0);
    while at < new.len() {
        let copy = copy_at(old, new, at, shift, index).unwrap_or(Copy { from: 0, len: 0 });
        writer.number(copy.len)?;
        if copy.len > 0 {
            writer.number(copy.from)?;
            at += copy.len;
            shift = (copy.from + copy.len) as isize - at as isize;
        }
        let literals =
            (at..new.len()).find(|end| copy_at(old, new, *end, shift, index).is_some()).unwrap_or(new.len());
        writer.number(literals - at)?;
        writer.bytes(new.get(at..literals)?)?;
        at = literals;
    }
    Some(writer.at)
}

struct Writer<'o> {
    out: &'o mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> Option<()> {
        self.out.get_mut(self.at..self.at + bytes.len())?.copy_from_slice(bytes);
        self.at += bytes.len();
        Some(())
    }

    fn number(&mut self, mut number: usize) -> Option<()> {
        loop {
            let [low, ..] = number.to_le_bytes();
            number >>= 7;
            if number == 0 {
                return self.bytes(&[low]);
            }
            self.bytes(&[low | 0x80])?;
        }
    }
}

/// The delta is not one, or does not fit `old` or `into`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// Makes the new state of `old` in `into`; returns its length in bytes.
///
/// # Errors
/// [`Malformed`]; the content of `into` is unspecified then.
pub fn apply(delta: &[u8], old: &[u8], into: &mut [u8]) -> Result<usize, Malformed> {
    let mut reader = Reader::new(delta);
    let len = number(&mut reader)?;
    let mut missing = into.get_mut(..len).ok_or(Malformed)?;
    while !missing.is_empty() {
        let before = missing.len();
        let copied = number(&mut reader)?;
        if copied > 0 {
            let from = number(&mut reader)?;
            let source = old.get(from..).and_then(|old| old.get(..copied)).ok_or(Malformed)?;
            missing = put(missing, source)?;
        }
        let literal = number(&mut reader)?;
        missing = put(missing, reader.take(literal).map_err(|_| Malformed)?)?;
        if missing.len() == before {
            return Err(Malformed);
        }
    }
    reader.rest().iter().all(|byte| *byte == 0).then_some(len).ok_or(Malformed)
}

fn put<'i>(into: &'i mut [u8], bytes: &[u8]) -> Result<&'i mut [u8], Malformed> {
    let (here, rest) = into.split_at_mut_checked(bytes.len()).ok_or(Malformed)?;
    here.copy_from_slice(bytes);
    Ok(rest)
}

/// LEB128 of at most three bytes: 21 bits are more than any state has.
fn number(reader: &mut Reader<'_>) -> Result<usize, Malformed> {
    let mut value = 0;
    for shift in [0, 7, 14] {
        let [byte] = reader.array().map_err(|_| Malformed)?;
        value |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(value);
        }
    }
    Err(Malformed)
}

#[cfg(test)]
mod tests {
    use super::{Malformed, WindowIndex, apply, encode};
    use std::boxed::Box;
    use std::vec;
    use std::vec::Vec;

    extern crate std;

    /// Bytes that compress under nothing.
    fn noise(seed: u64, len: usize) -> Vec<u8> {
        let mut x = seed | 1;
        let step = |_| {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            x.to_le_bytes()[4]
        };
        (0..len).map(step).collect()
    }

    fn delta(old: &[u8], new: &[u8]) -> Vec<u8> {
        let mut out = vec![0; new.len() * 2 + 64];
        let Some(len) = encode(old, new, &mut Box::new(WindowIndex::new()), &mut out) else { panic!() };
        out.truncate(len);
        let mut made = vec![0xEE; new.len()];
        assert_eq!(apply(&out, old, &mut made), Ok(new.len()));
        assert_eq!(made, new);
        out
    }

    #[test]
    fn a_counter_is_a_few_bytes() {
        let old = noise(1, 9000);
        for at in [0, 1, 4500, 8992] {
            let mut new = old.clone();
            new[at..at + 8].copy_from_slice(&[0xA5; 8]);
            assert!(delta(&old, &new).len() <= 24, "at {at}");
        }
        assert!(delta(&old, &old).len() <= 10);
    }

    #[test]
    fn an_insertion_moves_the_rest_at_no_cost() {
        let old = noise(2, 9000);
        for (at, len) in [(0, 100), (17, 64), (4500, 300), (9000, 50)] {
            let mut new = old.clone();
            new.splice(at..at, noise(3, len));
            assert!(delta(&old, &new).len() <= len + 40, "at {at}");
            assert!(delta(&new, &old).len() <= 60, "removing at {at}");
        }
    }

    #[test]
    fn any_two_states_have_a_delta() {
        let sizes = [0, 1, 7, 8, 15, 16, 17, 100, 1000];
        for a in sizes {
            for b in sizes {
                delta(&noise(4, a), &noise(5, b));
                delta(&noise(6, a), &noise(6, b));
                delta(&vec![0; a], &vec![0; b]);
            }
        }
        delta(&noise(7, 160 * 1024), &noise(7, 160 * 1024));
    }

    #[test]
    fn any_bytes_are_applied_or_refused_without_a_panic() {
        let (old, mut into) = (noise(8, 200), [0; 256]);
        let good = delta(&old, &noise(9, 40));
        for len in 0..good.len() {
            assert_eq!(apply(&good[..len], &old, &mut into), Err(Malformed));
        }
        let mut accepted = 0;
        for seed in 1..20_000 {
            accepted += usize::from(apply(&noise(seed, 24), &old, &mut into).is_ok());
        }
        assert!(accepted < 200);
    }

    #[test]
    fn nothing_hides_behind_the_last_group() {
        let mut padded = delta(b"old", b"new state");
        padded.extend([0; 8]);
        let mut into = [0; 16];
        assert_eq!(apply(&padded, b"old", &mut into), Ok(9));
        padded.push(1);
        assert_eq!(apply(&padded, b"old", &mut into), Err(Malformed));
    }

    #[test]
    fn a_delta_that_does_not_fit_says_so() {
        let (old, new) = (noise(1, 300), noise(2, 300));
        for room in 0..300 {
            assert_eq!(encode(&old, &new, &mut Box::new(WindowIndex::new()), &mut vec![0; room]), None);
        }
    }
}
