# A guest that commits without end: a counter and an index are moved in turn, and each success is said with the sum of both.
# It says first what it found. Its machine is killed at some moment; nothing of it lasts but what the TPM keeps.
    .include "guest.inc"

guest_name: .asciz "WRITER "
    .globl _start
_start:
    cli
    cld
    mov esp, offset stack_end
    send define_counter
    call made
    verdict "defines-counter"
    send define_index
    call made
    verdict "defines-index"
    # A new counter or index cannot be read: TPM_RC_NV_UNINITIALIZED.
    send read_counter
    call number
    mov [counter], eax
    send read_index
    call number
    mov [written], eax
    say "WRITER-FOUND counter "
    mov eax, [counter]
    call print_hex
    say "WRITER-FOUND written "
    mov eax, [written]
    call print_hex

again:
    mov eax, [counter]
    cmp eax, [written]
    jne 1f
    send increment
    cmp dword ptr [CRB + 0x1000 + 6], 0
    jne failed
    inc dword ptr [counter]
    jmp 2f
1:  bswap eax
    mov [write_number], eax
    send write
    cmp dword ptr [CRB + 0x1000 + 6], 0
    jne failed
    inc dword ptr [written]
2:  say "WRITER-DONE "
    mov eax, [counter]
    add eax, [written]
    call print_hex
    jmp again
failed:
    say "WRITER-FAILED "
    mov eax, [CRB + 0x1000 + 6]
    bswap eax
    call print_hex
1:  hlt
    jmp 1b

# Zero flag: the index is there now, or was (TPM_RC_NV_DEFINED).
made:
    cmp dword ptr [CRB + 0x1000 + 6], 0
    je 1f
    cmp dword ptr [CRB + 0x1000 + 6], 0x4C010000
1:  ret

# The low half of the eight bytes that were read, or nothing if there are none yet. They begin 16 bytes into the response.
number:
    xor eax, eax
    cmp dword ptr [CRB + 0x1000 + 6], 0x4A010000
    je 1f
    cmp dword ptr [CRB + 0x1000 + 6], 0
    jne failed
    mov eax, [CRB + 0x1000 + 20]
    bswap eax
1:  ret

# TPM2_NV_DefineSpace under the owner: 8 bytes, AUTHREAD, AUTHWRITE, NO_DA; once TPM_NT_COUNTER.
define_counter:
    .byte 0x80, 2, 0, 0, 0, 45, 0, 0, 1, 0x2A, 0x40, 0, 0, 1, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0
    .byte 0, 0, 0, 14, 1, 0x80, 0, 1, 0, 0x0B, 0x02, 0x04, 0x00, 0x14, 0, 0, 0, 8
define_counter_end:
define_index:
    .byte 0x80, 2, 0, 0, 0, 45, 0, 0, 1, 0x2A, 0x40, 0, 0, 1, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0
    .byte 0, 0, 0, 14, 1, 0x80, 0, 2, 0, 0x0B, 0x02, 0x04, 0x00, 0x04, 0, 0, 0, 8
define_index_end:
# TPM2_NV_Read of 8 bytes, by the index's own empty password.
read_counter:
    .byte 0x80, 2, 0, 0, 0, 35, 0, 0, 1, 0x4E, 1, 0x80, 0, 1, 1, 0x80, 0, 1, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0
    .byte 0, 8, 0, 0
read_counter_end:
read_index:
    .byte 0x80, 2, 0, 0, 0, 35, 0, 0, 1, 0x4E, 1, 0x80, 0, 2, 1, 0x80, 0, 2, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0
    .byte 0, 8, 0, 0
read_index_end:
# TPM2_NV_Increment of the counter.
increment:
    .byte 0x80, 2, 0, 0, 0, 31, 0, 0, 1, 0x34, 1, 0x80, 0, 1, 1, 0x80, 0, 1, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0
increment_end:
# TPM2_NV_Write of 8 bytes to the index.
write:
    .byte 0x80, 2, 0, 0, 0, 43, 0, 0, 1, 0x37, 1, 0x80, 0, 2, 1, 0x80, 0, 2, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0
    .byte 0, 8, 0, 0, 0, 0
write_number:
    .byte 0, 0, 0, 0, 0, 0
write_end:
    .balign 4
counter: .long 0
written: .long 0
