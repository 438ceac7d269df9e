# A guest that extends a PCR, writes an NV index, resets its machine, and looks again; then it switches the machine off.
# Memory keeps its content over a reset: that is how it knows which time it is.
    .include "guest.inc"
    .include "second.inc"
    .set MARK, 0x00500000

guest_name: .asciz "REBOOT "
    .globl _start
_start:
    cli
    cld
    mov esp, offset stack_end
    cmp dword ptr [MARK], 0x5EC0D0AD
    je again
    mov dword ptr [MARK], 0x5EC0D0AD
    send read
    cmp dword ptr [CRB + 0x1000 + 30], 0
    verdict "first-pcr-is-zero"
    send extend
    cmp dword ptr [CRB + 0x1000 + 6], 0
    verdict "extends"
    send read
    cmp dword ptr [CRB + 0x1000 + 30], 0
    setne al
    cmp al, 1
    verdict "pcr-is-extended"
    send define
    cmp dword ptr [CRB + 0x1000 + 6], 0
    verdict "defines"
    # The second processor runs while the first resets the machine.
    start_second eax
    mov ecx, 10000000
1:  pause
    cmp dword ptr [0x9800], 0
    jne 2f
    loop 1b
2:  cmp dword ptr [0x9800], 0
    setne al
    cmp al, 1
    verdict "second-processor-runs"
    mov al, 6
    mov dx, 0xCF9
    out dx, al
1:  jmp 1b

again:
    mov eax, [0x9800]
    mov ecx, 1000000
1:  pause
    loop 1b
    cmp eax, [0x9800]
    verdict "second-processor-stopped"
    send read
    cmp dword ptr [CRB + 0x1000 + 30], 0
    verdict "pcr-is-zero-again"
    send define
    # TPM_RC_NV_DEFINED: the index is still there.
    cmp dword ptr [CRB + 0x1000 + 6], 0x4C010000
    verdict "index-is-kept"
    say "REBOOT end PASS\n"
    power_off

    .code16
    .balign 16
# Counts in memory for ever.
trampoline:
    cli
    xor ax, ax
    mov ds, ax
1:  .byte 0xFF, 0x06
    .word 0x9800
    jmp 1b
trampoline_end:
    .code32

# TPM2_PCR_Read of PCR 16 in SHA-256: the digest begins 30 bytes into the response.
read:
    .byte 0x80, 1, 0, 0, 0, 20, 0, 0, 1, 0x7E, 0, 0, 0, 1, 0, 0x0B, 3, 0, 0, 1
read_end:
# TPM2_PCR_Extend of PCR 16 in SHA-256.
extend:
    .byte 0x80, 2, 0, 0, 0, 65, 0, 0, 1, 0x82, 0, 0, 0, 16, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0
    .byte 0, 0, 0, 1, 0, 0x0B
    .fill 32, 1, 0x5A
extend_end:
# TPM2_NV_DefineSpace under the owner: 8 bytes, AUTHREAD, AUTHWRITE, NO_DA.
define:
    .byte 0x80, 2, 0, 0, 0, 45, 0, 0, 1, 0x2A, 0x40, 0, 0, 1, 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0
    .byte 0, 0, 0, 14, 1, 0x80, 0, 1, 0, 0x0B, 0x02, 0x04, 0x00, 0x04, 0, 0, 0, 8
define_end:
