//! The heap: one piece of memory from the firmware, and a ceiling.

use super::memory::copy;
use core::alloc::Layout;
use core::ffi::c_void;
use core::mem::MaybeUninit;
use core::ptr::{self, NonNull};
use rlsf::Tlsf;
use spin::Mutex;

/// Alignment of every block, as the x86-64 ABI asks of `malloc`.
const ALIGN: usize = 16;

/// Free lists for blocks of up to 8 MiB, 16 of them for each doubling: what is lost to rounding is below a sixteenth.
type Lists = Tlsf<'static, u32, u16, 20, 16>;

struct Heap {
    lists: Lists,
    usage: Usage,
}

/// How much of the heap is used, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// What the firmware supplied.
    pub total: usize,
    /// In use now.
    pub now: usize,
    /// In use at most, ever.
    pub peak: usize,
    /// Requests that were refused because nothing was left.
    pub refused: usize,
}

static HEAP: Mutex<Heap> =
    Mutex::new(Heap { lists: Lists::new(), usage: Usage { total: 0, now: 0, peak: 0, refused: 0 } });

/// Gives the heap its memory.
pub(super) fn supply(arena: &'static mut [u8]) {
    let mut heap = HEAP.lock();
    heap.usage.total += arena.len();
    // SAFETY: bytes that are initialised may be treated as if they were not; the heap writes them before it reads them.
    let arena = unsafe { &mut *(ptr::from_mut(arena) as *mut [MaybeUninit<u8>]) };
    heap.lists.insert_free_block(arena);
}

/// How much is used.
#[must_use]
pub fn usage() -> Usage {
    HEAP.lock().usage
}

/// Bytes before each block, in which its size stands: as many as keep the block aligned.
const HEADER_BYTES: usize = ALIGN;

impl Heap {
    fn allocate(&mut self, size: usize) -> Option<NonNull<u8>> {
        let whole = size.checked_add(HEADER_BYTES)?;
        let layout = Layout::from_size_align(whole, ALIGN).ok()?;
        let Some(header) = self.lists.allocate(layout) else {
            self.usage.refused += 1;
            return None;
        };
        self.usage.now += whole;
        self.usage.peak = self.usage.peak.max(self.usage.now);
        // SAFETY: the allocation begins with a header, and is aligned for it.
        unsafe { header.cast::<usize>().write(size) };
        // SAFETY: within the allocation, or at its end.
        Some(unsafe { header.add(HEADER_BYTES) })
    }

    /// Overwrites a block and takes it back.
    ///
    /// # Safety
    /// `block` was allocated here and is used no more.
    unsafe fn release(&mut self, block: NonNull<u8>) {
        // SAFETY: by this function's contract.
        let size = unsafe { size_of_block(block) };
        // SAFETY: the block has so many bytes, and nobody looks at them any more.
        unsafe { block.write_bytes(0, size) };
        self.usage.now -= size + HEADER_BYTES;
        // SAFETY: there is a header before every block.
        let header = unsafe { block.sub(HEADER_BYTES) };
        // SAFETY: what was allocated with this alignment.
        unsafe { self.lists.deallocate(header, ALIGN) };
    }
}

/// The size that was asked for.
///
/// # Safety
/// `block` was allocated here.
unsafe fn size_of_block(block: NonNull<u8>) -> usize {
    // SAFETY: there is a header before every block.
    let header = unsafe { block.sub(HEADER_BYTES) };
    // SAFETY: as above.
    unsafe { header.cast::<usize>().read() }
}

/// `malloc`: null where nothing is left, which the engine answers with a failure of the command.
#[cfg_attr(target_os = "none", unsafe(no_mangle))]
#[cfg_attr(not(target_os = "none"), unsafe(export_name = "husk_malloc"))]
pub(super) extern "C" fn malloc(size: usize) -> *mut c_void {
    HEAP.lock().allocate(size).map_or(ptr::null_mut(), |block| block.as_ptr().cast())
}

/// `free`.
///
/// # Safety
/// `block` is null or came from here and is used no more.
#[cfg_attr(target_os = "none", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn free(block: *mut c_void) {
    if let Some(block) = NonNull::new(block.cast()) {
        // SAFETY: by this function's contract.
        unsafe { HEAP.lock().release(block) };
    }
}

/// `calloc`.
#[cfg_attr(target_os = "none", unsafe(no_mangle))]
extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    let Some(bytes) = count.checked_mul(size) else { return ptr::null_mut() };
    let block = malloc(bytes);
    if !block.is_null() {
        // SAFETY: a fresh block of so many bytes.
        unsafe { block.cast::<u8>().write_bytes(0, bytes) };
    }
    block
}

/// `realloc`. A block that shrinks stays where it is; what one that grows leaves behind is overwritten, as by `free`.
///
/// # Safety
/// As [`free`].
#[cfg_attr(target_os = "none", unsafe(no_mangle))]
pub(super) unsafe extern "C" fn realloc(block: *mut c_void, size: usize) -> *mut c_void {
    let Some(old) = NonNull::new(block.cast::<u8>()) else { return malloc(size) };
    // SAFETY: by this function's contract.
    let old_size = unsafe { size_of_block(old) };
    if size <= old_size {
        return block;
    }
    let new = malloc(size);
    if !new.is_null() {
        // SAFETY: both blocks have so many bytes, and they are two.
        unsafe { copy(new.cast(), old.as_ptr(), old_size) };
        // SAFETY: by this function's contract.
        unsafe { free(block) };
    }
    new
}

#[cfg(test)]
#[expect(clippy::undocumented_unsafe_blocks, reason = "the calls are what is tested")]
pub(super) mod tests {
    use super::{free, malloc, realloc, supply, usage};
    use std::vec;
    use std::vec::Vec;

    /// Lets one test at a time use a heap that has memory.
    pub(in super::super) fn with_memory(test: impl FnOnce()) {
        static ONE: std::sync::Mutex<bool> = std::sync::Mutex::new(false);
        let mut supplied = ONE.lock().expect("no test failed before");
        if !std::mem::replace(&mut *supplied, true) {
            supply(Vec::leak(vec![0xEE; 256 * 1024]));
        }
        test();
    }

    #[test]
    fn the_heap_has_a_ceiling_counts_and_forgets() {
        with_memory(fill_and_empty);
    }

    fn fill_and_empty() {
        let before = usage();
        let blocks: Vec<_> =
            std::iter::from_fn(|| Some(malloc(1000)).filter(|block| !block.is_null())).collect();
        let full = usage();
        assert!(blocks.len() > 200 && full.now > 200_000 && full.now <= full.total, "{full:?}");
        assert_eq!((full.refused, full.peak), (before.refused + 1, full.now));
        for block in &blocks {
            assert!((*block as usize).is_multiple_of(16));
            unsafe { block.cast::<u8>().write_bytes(0x5A, 1000) };
        }
        for block in blocks {
            unsafe { free(block) };
        }
        assert_eq!(usage().now, before.now);

        let block = malloc(100);
        assert!(
            (0..100).all(|at| unsafe { block.cast::<u8>().wrapping_add(at).read() } != 0x5A),
            "freed blocks are overwritten"
        );
        unsafe { block.cast::<u8>().write_bytes(7, 100) };
        let grown = unsafe { realloc(block, 50_000) };
        assert!((0..100).all(|at| unsafe { grown.cast::<u8>().wrapping_add(at).read() } == 7));
        let shrunk = unsafe { realloc(grown, 10) };
        assert!((0..10).all(|at| unsafe { shrunk.cast::<u8>().wrapping_add(at).read() } == 7));
        assert!(unsafe { realloc(shrunk, 1 << 30) }.is_null());
        unsafe { free(shrunk) };
        assert!(malloc(usize::MAX).is_null());
        assert_eq!(usage().now, before.now);
    }
}
