//! The library's way to die, made into a way to return.
//!
//! The TCG code ends an impossible situation by calling `_plat__Fail`, which never returns. libtpms' own version jumps to
//! a buffer that is valid only while a command executes: a failure in power-on, in saving state or in a locality-4 hash
//! would jump into a stack frame that is gone. Husk defines `_plat__Fail` and `_plat__RunCommand` itself (so the archive
//! member that holds theirs, and with it `setjmp`, is not linked) and enters the library only through [`enter`].
//!
//! # Soundness
//! `husk_tpms_enter` saves the six callee-saved registers of the System V ABI and its result pointer on the stack,
//! remembers the stack pointer in `husk_tpms_stack`, and calls `function`. `_plat__Fail` restores that stack pointer and
//! leaves `husk_tpms_enter` as if the call had returned. The frames it leaves out are C frames of the library: the called
//! function *is* the library's, and Rust callbacks have returned before the library decides to fail. Without a
//! remembered stack pointer there is nowhere to go and `ud2` stops the machine. Entries do not nest, since a callback
//! never calls [`enter`]; one thread at a time enters, since only [`Tpms`](crate::Tpms) does.

use crate::extern_c::ExecuteCommand;
use core::arch::global_asm;

global_asm!(
    ".pushsection .bss.husk_tpms_stack,\"aw\",@nobits",
    ".balign 8",
    "husk_tpms_stack: .zero 8",
    ".popsection",
    ".pushsection .text.husk_tpms_enter,\"ax\",@progbits",
    ".balign 16",
    ".globl husk_tpms_enter",
    ".type husk_tpms_enter, @function",
    // rdi: function, rsi: its five arguments, rdx: where its result goes. Returns 0, or 1 if it failed.
    "husk_tpms_enter:",
    "push rbp",
    "push rbx",
    "push r12",
    "push r13",
    "push r14",
    "push r15",
    "push rdx",
    "mov [rip + husk_tpms_stack], rsp",
    "mov rax, rdi",
    "mov rdi, [rsi]",
    "mov rdx, [rsi + 16]",
    "mov rcx, [rsi + 24]",
    "mov r8, [rsi + 32]",
    "mov rsi, [rsi + 8]",
    "call rax",
    "pop rdx",
    "mov [rdx], eax",
    "xor eax, eax",
    "2:",
    "mov qword ptr [rip + husk_tpms_stack], 0",
    "pop r15",
    "pop r14",
    "pop r13",
    "pop r12",
    "pop rbx",
    "pop rbp",
    "ret",
    ".globl _plat__Fail",
    ".type _plat__Fail, @function",
    "_plat__Fail:",
    "mov rax, [rip + husk_tpms_stack]",
    "test rax, rax",
    "jz 3f",
    "mov rsp, rax",
    "cld",
    "pop rdx",
    "mov eax, 1",
    "jmp 2b",
    "3:",
    "ud2",
    ".popsection",
);

unsafe extern "C" {
    fn husk_tpms_enter(function: *const (), arguments: *const [usize; 5], result: *mut u32) -> u32;
}

/// The library gave up inside a call; its state is not to be used before the next power-on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct GaveUp;

/// Calls a function of the library with up to five word-sized arguments and yields the low 32 bits of its result.
///
/// # Safety
/// `function` is an `extern "C"` function of the library that takes integers or pointers in the first `arguments` and
/// is called correctly with these; the caller is the only one in the library.
pub(crate) unsafe fn enter(function: *const (), arguments: [usize; 5]) -> Result<u32, GaveUp> {
    let mut result = 0;
    // SAFETY: by this function's contract; `arguments` and `result` outlive the call.
    match unsafe { husk_tpms_enter(function, &raw const arguments, &raw mut result) } {
        0 => Ok(result),
        _ => Err(GaveUp),
    }
}

/// Replaces libtpms' function of that name: runs a command, with [`enter`] in place of `setjmp`.
///
/// # Safety
/// Called by the library only, with its own buffers.
#[unsafe(no_mangle)]
unsafe extern "C" fn _plat__RunCommand(
    request_len: u32,
    request: *mut u8,
    response_len: *mut u32,
    response: *mut *mut u8,
) {
    // SAFETY: the arguments are passed on as they came.
    unsafe { ExecuteCommand(request_len, request, response_len, response) }
}
