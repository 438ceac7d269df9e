# A guest that does what it is told over its serial port: a kernel in 64-bit mode that reads and writes memory and makes calls.
# What it reads: a letter, then numbers in little-endian bytes.
#   w address:8 count:4 bytes   writes the bytes, one at a time
#   r address:8 count:4         reads as many
#   c rax rcx rdx r8 r9         makes a call
#   s                           INIT and start-up of the second processor, which then serves AP_BLOCK
#   q                           power-off
# What it says: a line "= " and bytes in hexadecimal. After a call these are the vector that was raised, RAX, RCX, RDX, R8 and R9.
    .include "second.inc"
    .code32
    .set APIC, 0xFEE00000
    .set SERIAL, 0x3F8
    # Where page tables are made, and where the second processor finds its calls.
    .set TABLES, 0x200000
    .set AP_BLOCK, 0x300000
    .set AP_FLAG, AP_BLOCK + 0x40
    .set AP_READY, AP_BLOCK + 0x44
    .set LONG_CODE, 8
    .set DATA, 16
    .set CODE, 24

    .globl _start
_start:
    cli
    cld
    mov esp, offset stack_end
    # In 32-bit mode first: a call, whatever EAX holds, is no instruction there.
    mov eax, offset undefined_32
    mov word ptr [idt + 6 * 8], ax
    mov word ptr [idt + 6 * 8 + 2], cs
    mov word ptr [idt + 6 * 8 + 4], 0x8E00
    shr eax, 16
    mov word ptr [idt + 6 * 8 + 6], ax
    lidt [idt_pointer]
    xor ebx, ebx
    mov eax, 1
    vmmcall
    mov [block], ebx

    # The first 4 GiB are mapped onto themselves.
    mov dword ptr [TABLES], TABLES + 0x1000 + 3
    mov dword ptr [TABLES + 0x1000], 0x83
    mov dword ptr [TABLES + 0x1008], 0x40000083
    mov dword ptr [TABLES + 0x1010], 0x80000083
    mov dword ptr [TABLES + 0x1018], 0xC0000083
    mov eax, offset undefined_64
    mov word ptr [idt + 6 * 16], ax
    mov word ptr [idt + 6 * 16 + 2], LONG_CODE
    mov word ptr [idt + 6 * 16 + 4], 0x8E00
    shr eax, 16
    mov word ptr [idt + 6 * 16 + 6], ax
    mov dword ptr [idt + 6 * 16 + 8], 0
    mov ebp, offset first
    jmp to_long_mode

undefined_32:
    mov ebx, 6
    add dword ptr [esp], 3
    iretd

# Into 64-bit mode, and on at ebp.
to_long_mode:
    lgdt [gdt_pointer]
    mov eax, cr4
    or eax, 0x20
    mov cr4, eax
    mov eax, TABLES
    mov cr3, eax
    mov ecx, 0xC0000080
    rdmsr
    or eax, 0x100
    wrmsr
    mov eax, cr0
    or eax, 0x80000001
    mov cr0, eax
    .byte 0xEA
    .long long_mode
    .word LONG_CODE

    .code64
long_mode:
    mov eax, DATA
    mov ds, eax
    mov es, eax
    mov ss, eax
    lidt [rip + idt_pointer]
    jmp rbp

undefined_64:
    mov r15d, 6
    add qword ptr [rsp], 3
    iretq

first:
    mov esp, offset stack_end
    mov edi, offset block
    mov ecx, 8
    call tell
main:
    mov edi, offset head
    mov ecx, 1
    call hear
    mov al, [rip + head]
    cmp al, 'w'
    je write
    cmp al, 'r'
    je read
    cmp al, 'c'
    je one_call
    cmp al, 's'
    je start
    mov ax, 0x2000
    mov dx, 0x604
    out dx, ax
1:  hlt
    jmp 1b

write:
    call where
    call hear
    xor ecx, ecx
    call tell
    jmp main
read:
    call where
    call tell
    jmp main
one_call:
    mov edi, offset block + 8
    mov ecx, 40
    call hear
    mov edi, offset block
    call make_call
    mov ecx, 48
    call tell
    jmp main

start:
    mov dword ptr [AP_READY], 0
    mov dword ptr [AP_FLAG], 0
    start_second rax
1:  pause
    cmp dword ptr [AP_READY], 1
    jne 1b
    xor ecx, ecx
    call tell
    jmp main

# The registers in the block at rdi go into a call and come back.
make_call:
    xor r15d, r15d
    mov rax, [rdi + 8]
    mov rcx, [rdi + 16]
    mov rdx, [rdi + 24]
    mov r8, [rdi + 32]
    mov r9, [rdi + 40]
    vmmcall
    mov [rdi], r15
    mov [rdi + 8], rax
    mov [rdi + 16], rcx
    mov [rdi + 24], rdx
    mov [rdi + 32], r8
    mov [rdi + 40], r9
    ret

# Hears an address and a count: rdi and ecx.
where:
    mov edi, offset head
    mov ecx, 12
    call hear
    mov rdi, [rip + head]
    mov ecx, [rip + head + 8]
    ret

# Hears ecx bytes, to rdi.
hear:
    jecxz 3f
1:  mov dx, SERIAL + 5
2:  in al, dx
    test al, 1
    jz 2b
    mov dx, SERIAL
    in al, dx
    mov [rdi], al
    inc rdi
    dec ecx
    jnz 1b
3:  ret

# Says "= ", ecx bytes from rdi in hexadecimal, and the end of the line.
tell:
    mov al, '='
    call put
    mov al, ' '
    call put
    mov r8d, offset hex
    jecxz 2f
1:  movzx ebx, byte ptr [rdi]
    mov eax, ebx
    shr eax, 4
    mov al, [r8 + rax]
    call put
    and ebx, 15
    mov al, [r8 + rbx]
    call put
    inc rdi
    dec ecx
    jnz 1b
2:  mov al, 10
put:
    mov ah, al
    mov dx, SERIAL + 5
1:  in al, dx
    test al, 0x20
    jz 1b
    mov dx, SERIAL
    mov al, ah
    out dx, al
    ret

second:
    mov esp, offset second_stack_end
    mov dword ptr [AP_READY], 1
1:  pause
    cmp dword ptr [AP_FLAG], 1
    jne 1b
    mov edi, AP_BLOCK
    call make_call
    mov dword ptr [AP_FLAG], 2
    jmp 1b

    trampoline_to second_32, CODE, gdt, 31
second_32:
    mov ax, DATA
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov ebp, offset second
    jmp to_long_mode

    .balign 8
gdt:
    .quad 0, 0x00AF9B000000FFFF, 0x00CF93000000FFFF, 0x00CF9B000000FFFF
gdt_pointer:
    .word 31
    .long gdt
    .long 0
idt_pointer:
    .word 511
    .long idt
    .long 0
hex: .ascii "0123456789abcdef"
    .balign 16
block: .skip 64
head: .skip 16
    .balign 16
idt: .skip 512
stack: .skip 4096
stack_end:
second_stack: .skip 4096
second_stack_end:
