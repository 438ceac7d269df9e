//! `qsort`.

use core::ffi::{c_int, c_void};
use core::ptr;

/// How C compares two elements.
type Compare = unsafe extern "C" fn(*const c_void, *const c_void) -> c_int;

/// An array of `count` elements of `size` bytes.
struct Elements {
    first: *mut u8,
    size: usize,
    compare: Compare,
}

impl Elements {
    fn at(&self, index: usize) -> *mut u8 {
        self.first.wrapping_add(index * self.size)
    }

    /// # Safety
    /// Both indices are within the array.
    unsafe fn less(&self, one: usize, other: usize) -> bool {
        // SAFETY: two elements, which is what the function compares.
        unsafe { (self.compare)(self.at(one).cast(), self.at(other).cast()) < 0 }
    }

    /// # Safety
    /// As [`less`](Self::less), and the indices differ.
    unsafe fn swap(&self, one: usize, other: usize) {
        // SAFETY: two distinct elements.
        unsafe { ptr::swap_nonoverlapping(self.at(one), self.at(other), self.size) };
    }

    /// Lets the element at `root` sink, in a heap of `count` elements.
    ///
    /// # Safety
    /// `count` is at most the array's, `root` below it.
    unsafe fn sink(&self, mut root: usize, count: usize) {
        loop {
            let mut largest = root;
            for child in [2 * root + 1, 2 * root + 2] {
                // SAFETY: both are below `count`.
                if child < count && unsafe { self.less(largest, child) } {
                    largest = child;
                }
            }
            if largest == root {
                return;
            }
            // SAFETY: both are below `count`, and differ.
            unsafe { self.swap(root, largest) };
            root = largest;
        }
    }
}

/// `qsort`, by heap sort: as bad as its best, and no recursion.
///
/// # Safety
/// Of the C function of that name.
#[cfg_attr(target_os = "none", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn qsort(first: *mut c_void, count: usize, size: usize, compare: Compare) {
    let elements = Elements { first: first.cast(), size, compare };
    for root in (0..count / 2).rev() {
        // SAFETY: within the array.
        unsafe { elements.sink(root, count) };
    }
    for last in (1..count).rev() {
        // SAFETY: within the array.
        unsafe { elements.swap(0, last) };
        // SAFETY: as above.
        unsafe { elements.sink(0, last) };
    }
}

#[cfg(test)]
#[expect(
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "the calls are what is tested"
)]
mod tests {
    use core::ffi::{c_int, c_void};
    use std::vec::Vec;

    unsafe extern "C" fn by_key(one: *const c_void, other: *const c_void) -> c_int {
        let (one, other) = unsafe { (one.cast::<[u8; 3]>().read(), other.cast::<[u8; 3]>().read()) };
        c_int::from(one[0]) - c_int::from(other[0])
    }

    #[test]
    fn whatever_is_sorted_is_in_order_and_complete() {
        let mut seed = 1_u32;
        for count in 0..40_usize {
            let mut elements: Vec<[u8; 3]> = (0..count)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let [_, key, _, other] = seed.to_le_bytes();
                    [key % 16, other, key]
                })
                .collect();
            let mut before = elements.clone();
            unsafe { super::qsort(elements.as_mut_ptr().cast(), count, 3, by_key) };
            assert!(elements.is_sorted_by_key(|element| element[0]));
            elements.sort_unstable();
            before.sort_unstable();
            assert_eq!(elements, before);
        }
    }
}
