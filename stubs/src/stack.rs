//! A stack for a TPM, where its caller's is small.
//!
//! Kernels of SVSMs have stacks of a few pages. What runs by [`Stack::run`] runs on memory that was lent for that, so that the kernel's own stack carries a
//! hundred bytes of it.
//!
//! # Soundness
//! The memory is lent for ever, and [`Stack`] has the only reference: between two runs nobody uses it, during one only a stack pointer
//! enters it, and `&mut self` keeps a second one away. `husk_on_stack` keeps the caller's stack pointer in `rbp`, which the
//! System V ABI has every function restore, and calls [`enter`] with a pointer to a [`Call`] in the caller's frame, which
//! outlives it. `enter` does not unwind: a panic that reaches it aborts. What `guard.rs` jumps back to lies on the same stack.
//! Nothing checks for the stack's end while it is used, as on any stack: whoever lends it leaves a page below that faults. Where
//! there is none, the bytes at the end tell afterwards, and `ud2` stops the machine.

use core::arch::{asm, global_asm};
use core::mem::{ManuallyDrop, MaybeUninit};

/// The least that may be lent, in bytes: twice what the deepest boot is known to take.
pub const STACK_BYTES_MIN: usize = 128 * 1024;

/// What a fresh stack is filled with.
const FRESH: u8 = 0xA5;
/// How many bytes at the end must stay so.
const MARGIN_BYTES: usize = 256;

global_asm!(
    ".pushsection .text.husk_on_stack,\"ax\",@progbits",
    ".balign 16",
    ".globl husk_on_stack",
    ".type husk_on_stack, @function",
    // rdi: the stack's top, rsi: a function, rdx: its argument.
    "husk_on_stack:",
    "push rbp",
    "mov rbp, rsp",
    "mov rsp, rdi",
    "mov rdi, rdx",
    "call rsi",
    "mov rsp, rbp",
    "pop rbp",
    "ret",
    ".popsection",
);

unsafe extern "C" {
    fn husk_on_stack(top: usize, function: extern "C" fn(*mut ()), argument: *mut ());
}

/// A stack of its own.
#[derive(Debug)]
pub struct Stack {
    memory: &'static mut [u8],
}

/// How much of a stack is used, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StackUsage {
    /// What was lent.
    pub total: usize,
    /// In use at most, ever.
    pub peak: usize,
}

/// What is called on the other stack, and what it yields.
struct Call<F, T> {
    act: ManuallyDrop<F>,
    result: MaybeUninit<T>,
}

extern "C" fn enter<F: FnOnce() -> T, T>(call: *mut ()) {
    // SAFETY: `run` passes its own frame's value, which nobody else uses meanwhile.
    let call = unsafe { &mut *call.cast::<Call<F, T>>() };
    // SAFETY: taken once, here.
    let act = unsafe { ManuallyDrop::take(&mut call.act) };
    call.result.write(act());
}

impl Stack {
    /// Takes memory for good; none if it is less than [`STACK_BYTES_MIN`]. A page below it must fault.
    #[must_use]
    pub fn new(memory: &'static mut [u8]) -> Option<Self> {
        memory.fill(FRESH);
        (memory.len() >= STACK_BYTES_MIN).then_some(Self { memory })
    }

    /// Runs `act` on this stack.
    pub fn run<F: FnOnce() -> T, T>(&mut self, act: F) -> T {
        let mut call = Call { act: ManuallyDrop::new(act), result: MaybeUninit::uninit() };
        // A stack pointer is a multiple of 16 where a function is called.
        let top = self.memory.as_mut_ptr_range().end.expose_provenance() & !15;
        // SAFETY: the top of memory that is ours, and a function that takes this argument.
        unsafe { husk_on_stack(top, enter::<F, T>, (&raw mut call).cast()) };
        if self.memory.iter().take(MARGIN_BYTES).any(|byte| *byte != FRESH) {
            // SAFETY: it does not return. What lies below the stack may be overwritten, so nothing else may run.
            unsafe { asm!("ud2", options(noreturn)) };
        }
        // SAFETY: `enter` has written it.
        unsafe { call.result.assume_init() }
    }

    /// How deep it has ever been.
    #[must_use]
    pub fn usage(&self) -> StackUsage {
        let untouched = self.memory.iter().take_while(|byte| **byte == FRESH).count();
        StackUsage { total: self.memory.len(), peak: self.memory.len() - untouched }
    }
}

#[cfg(test)]
mod tests {
    use super::{STACK_BYTES_MIN, Stack};
    use std::hint::black_box;
    use std::vec;
    use std::vec::Vec;

    fn lent(bytes: usize) -> &'static mut [u8] {
        Vec::leak(vec![0; bytes])
    }

    /// Takes at least `bytes` of the stack that it is called on.
    #[inline(never)]
    fn deep(bytes: usize) -> u64 {
        let frame = black_box([1_u8; 512]);
        let below = if bytes > 512 { deep(bytes - 512) } else { 0 };
        below + u64::from(black_box(frame)[511])
    }

    #[test]
    fn what_runs_runs_there_and_yields_its_result() {
        let mut stack = Stack::new(lent(STACK_BYTES_MIN)).expect("large enough");
        let mut list = vec![1, 2];
        assert_eq!(stack.run(|| deep(8 * 512)), 8);
        assert_eq!(
            stack.run(|| {
                list.push(3);
                list
            }),
            [1, 2, 3],
            "what it owns moves there and back"
        );
        let before = stack.usage();
        assert!(before.peak >= 8 * 512 && before.peak < 32 * 1024, "{before:?}");
        assert_eq!(stack.run(|| deep(64 * 512)), 64);
        assert!(stack.usage().peak >= 64 * 512 && stack.usage().total == STACK_BYTES_MIN);
    }

    #[test]
    fn less_than_the_least_is_not_taken() {
        assert!(Stack::new(lent(STACK_BYTES_MIN - 1)).is_none());
    }
}
