//! The first instructions: from the boot loader's 32-bit world, or a processor's reset, to Rust.
//!
//! # Soundness
//! The loader enters `husk_entry` by the PVH convention (Xen's `docs/misc/pvh`): protected mode, flat segments, paging
//! off, interrupts off, `ebx` = address of the start information, one processor. The code maps the first GiB onto itself
//! with tables in `.bss`, which the loader has zeroed, enters long mode, switches SSE on (the engine is C code that uses it;
//! OSXSAVE stays off, so that libcrypto leaves AVX alone), and calls `husk_main` on the stack of processor 0.
//!
//! Another processor starts in real mode in a copy of `husk_trampoline` at [`TRAMPOLINE`] (see `cpus.rs`), loads the
//! final page tables and calls `husk_processor_main` on the stack in `husk_next_stack`, with the number in
//! `husk_next_cpu`. One processor is started at a time.

use super::stacks::{STACK_TOP, STACKS};
use core::arch::global_asm;

/// Where the trampoline is copied to: a page below 1 MiB, whose number is the vector of a start-up IPI.
pub(super) const TRAMPOLINE: u64 = 0x8000;

global_asm!(
    ".pushsection .note.Xen,\"a\",@note",
    ".balign 4",
    ".long 4, 8, 18", // lengths of name and value; XEN_ELFNOTE_PHYS32_ENTRY
    ".asciz \"Xen\"",
    ".quad husk_entry",
    ".popsection",
    ".pushsection .bss.husk_early,\"aw\",@nobits",
    ".balign 4096",
    ".globl husk_early_root",
    "husk_early_root: .zero 4096",
    "husk_early_pointers: .zero 4096",
    "husk_early_directory: .zero 4096",
    ".popsection",
    ".pushsection .data.husk_entry,\"aw\",@progbits",
    ".balign 8",
    // Null, 64-bit code, data, 32-bit code.
    "husk_early_gdt: .quad 0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00cf9b000000ffff",
    "husk_early_gdt_end:",
    "husk_early_gdtr: .word husk_early_gdt_end - husk_early_gdt - 1",
    ".long husk_early_gdt",
    ".balign 8",
    ".globl husk_next_stack, husk_next_cpu, husk_final_root",
    "husk_next_stack: .quad {stacks} + {top}",
    "husk_next_cpu: .quad 0",
    "husk_final_root: .quad 0",
    ".popsection",
    ".pushsection .text.husk_entry,\"ax\",@progbits",
    ".code32",
    ".globl husk_entry",
    "husk_entry:",
    "cli",
    "cld",
    "mov eax, offset husk_early_pointers",
    "or eax, 3",
    "mov [husk_early_root], eax",
    "mov eax, offset husk_early_directory",
    "or eax, 3",
    "mov [husk_early_pointers], eax",
    "xor ecx, ecx",
    "2:",
    "mov eax, ecx",
    "shl eax, 21",
    "or eax, 0x83", // present, writable, 2 MiB
    "mov [husk_early_directory + ecx * 8], eax",
    "inc ecx",
    "cmp ecx, 512",
    "jne 2b",
    "mov eax, offset husk_early_root",
    "mov edi, ebx",
    "mov esi, offset husk_long_mode",
    "mov esp, [husk_next_stack]",
    // eax: page tables, esi: where to go on in long mode; edi survives.
    "husk_enable_long_mode:",
    "mov cr3, eax",
    "mov eax, 0x620", // PAE, OSFXSR, OSXMMEXCPT
    "mov cr4, eax",
    "mov ecx, 0xC0000080",
    "rdmsr",
    "or eax, 0x900", // LME, NXE
    "wrmsr",
    "mov eax, 0x80010033", // PG, WP, NE, ET, MP, PE
    "mov cr0, eax",
    "lgdt [husk_early_gdtr]",
    "push 8",
    "push esi",
    "retf",
    ".code64",
    "husk_long_mode:",
    "mov eax, 16",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "xor eax, eax",
    "mov fs, eax",
    "mov gs, eax",
    "fninit",
    "mov edi, edi",
    "mov rsp, [rip + husk_next_stack]",
    "xor ebp, ebp",
    "push 0",
    "jmp husk_main",
    "husk_processor_long_mode:",
    "mov eax, 16",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "xor eax, eax",
    "mov fs, eax",
    "mov gs, eax",
    "fninit",
    "mov rsp, [rip + husk_next_stack]",
    "mov rdi, [rip + husk_next_cpu]",
    "xor ebp, ebp",
    "push 0",
    "jmp husk_processor_main",
    ".code32",
    "husk_processor_entry:",
    "mov eax, 16",
    "mov ds, eax",
    "mov es, eax",
    "mov ss, eax",
    "mov esp, [husk_next_stack]",
    "mov eax, [husk_final_root]",
    "mov esi, offset husk_processor_long_mode",
    "jmp husk_enable_long_mode",
    // Copied below 1 MiB: nothing in it may depend on where it was linked.
    ".code16",
    ".globl husk_trampoline, husk_trampoline_end",
    ".balign 64",
    "husk_trampoline:",
    "cli",
    "xor ax, ax",
    "mov ds, ax",
    "lgdtd ds:[{trampoline} + 64]",
    "mov eax, 0x11",
    "mov cr0, eax",
    ".byte 0x66, 0xEA", // jump far, with an offset of 32 bits
    ".long husk_processor_entry",
    ".word 0x18",
    ".balign 64",
    ".word husk_early_gdt_end - husk_early_gdt - 1",
    ".long husk_early_gdt",
    "husk_trampoline_end:",
    ".code64",
    ".popsection",
    trampoline = const TRAMPOLINE,
    stacks = sym STACKS,
    top = const STACK_TOP,
);
