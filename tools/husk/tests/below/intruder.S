# A guest that tries to reach the layer: 32-bit ring 0 without paging, entered as Linux would be.
# It says one line per attempt on the serial port: "INTRUDER name PASS" or "INTRUDER name FAIL". Where it says "INTRUDER waits" it goes on
# when it hears a byte: before the first attempt, when only the TPM is left to be attacked, and before it switches the machine off.
    # What the test writes on the disk.
    .set DISK_HOLDS, 0x5A5A5A5A
    .include "guest.inc"
    .include "second.inc"
    .include "disk.inc"
    .set LAYER, 0x10000000
    .set LAYER_END, 0x10800000
    .set IO_APIC, 0xFEC00000
    .set ECAM, 0xB0000000

guest_name: .asciz "INTRUDER "
    # Expects an instruction to raise that vector.
    .macro raises vector, name, instruction:vararg
    mov dword ptr [trap_seen], 0xFF
    mov dword ptr [trap_next], offset 7f
    \instruction
7:  cmp dword ptr [trap_seen], \vector
    verdict "\name"
    .endm
    .macro no_msr_write register, low, high, name
    mov ecx, \register
    mov eax, \low
    mov edx, \high
    raises 13, "\name", wrmsr
    .endm

    .globl _start
_start:
    cli
    cld
    mov esp, offset stack_end
    mov edi, offset idt
    mov ecx, 32
    mov ebx, offset stubs
1:  mov eax, ebx
    mov word ptr [edi], ax
    mov word ptr [edi + 2], cs
    mov word ptr [edi + 4], 0x8E00
    shr eax, 16
    mov word ptr [edi + 6], ax
    add ebx, 16
    add edi, 8
    loop 1b
    lidt [idt_pointer]

    # SSE and AVX state that must survive everything below.
    mov eax, cr4
    or eax, 0x40600
    mov cr4, eax
    mov eax, cr0
    and eax, 0xFFFFFFFB
    or eax, 2
    mov cr0, eax
    xor ecx, ecx
    xor edx, edx
    mov eax, 7
    xsetbv
    vmovdqu ymm0, [pattern]
    vmovdqu ymm7, [pattern]

    say "INTRUDER waits\n"
    await
    # Every page of the layer reads ones and takes no write.
    mov edi, LAYER
1:  cmp dword ptr [edi], -1
    jne 2f
    mov dword ptr [edi + 8], 0xDEADBEEF
    mov byte ptr [edi + 12], 0x5A
    cmp dword ptr [edi + 8], -1
    jne 2f
    add edi, 0x1000
    cmp edi, LAYER_END
    jb 1b
2:  cmp edi, LAYER_END
    verdict "layer-pages"
    mov edi, LAYER
    mov ecx, 4096
    mov eax, 0x41414141
    rep stosd
    mov esi, LAYER
    mov edi, offset scratch
    mov ecx, 16
    rep movsd
    cmp dword ptr [scratch], -1
    verdict "layer-strings"
    # What the layer leaves is a hole for code, too.
    mov dword ptr [trap_seen], 0xFF
    mov dword ptr [trap_next], offset 7f
    mov eax, LAYER
    jmp eax
7:  cmp dword ptr [trap_seen], 6
    verdict "layer-code"

    raises 6, "vmrun", vmrun
    raises 6, "vmload", vmload
    raises 6, "vmsave", vmsave
    raises 6, "vmmcall", vmmcall
    raises 6, "stgi", stgi
    raises 6, "clgi", clgi
    raises 6, "skinit", skinit
    raises 6, "invlpga", invlpga
    mov eax, 0x80000001
    cpuid
    test ecx, 4
    verdict "cpuid-svm"
    mov eax, 0x40000000
    cpuid
    or ebx, ecx
    verdict "cpuid-hypervisor"
    invd
    mov ecx, 0xC0000080
    rdmsr
    test eax, 0x1000
    verdict "efer-svme-hidden"
    no_msr_write 0xC0000080, 0x1000, 0, "efer-svme"
    no_msr_write 0xC0010114, 0, 0, "vm-cr"
    no_msr_write 0xC0010117, LAYER, 0, "vm-hsave-pa"
    no_msr_write 0xC0010118, 0, 0, "smm-key"
    no_msr_write 0xC0010115, 1, 0, "ignne"
    no_msr_write 0xC0010112, LAYER, 0, "smm-addr"
    no_msr_write 0xC0010113, 3, 0, "smm-mask"
    no_msr_write 0xC0010058, LAYER + 1, 0, "mmio-base"
    no_msr_write 0xC0010016, LAYER, 0, "iorr"
    no_msr_write 0x1B, LAYER + 0x900, 0, "apic-base"
    no_msr_write 0x830, 0x4500, 0, "x2apic"
    no_msr_write 0x4B564D01, LAYER + 1, 0, "kvmclock"

    # PCI: the layer's own devices are not there, and no window moves.
    mov eax, 0x80008000
    call config_read
    cmp eax, -1
    verdict "pci-volume"
    mov eax, 0x80008800
    call config_read
    cmp eax, -1
    verdict "pci-channel"
    mov eax, 0x80008010
    mov ebx, LAYER
    call config_write
    mov eax, 0x80008004
    mov ebx, 7
    call config_write
    mov eax, 0x80000060
    call config_read
    mov edi, eax
    mov eax, 0x80000060
    mov ebx, LAYER + 1
    call config_write
    mov dword ptr [ECAM + 0x60], LAYER + 1
    mov eax, 0x80000060
    call config_read
    cmp eax, edi
    verdict "pciexbar"
    cmp dword ptr [ECAM + 0x60], edi
    verdict "ecam"
    cmp dword ptr [ECAM + 0x80000], -1
    verdict "ecam-volume"
    mov eax, 0x8000F8F0
    call config_read
    mov edi, eax
    mov eax, 0x8000F8F0
    mov ebx, LAYER + 1
    call config_write
    mov eax, 0x8000F8F0
    call config_read
    cmp eax, edi
    verdict "rcba"

    # Ports: fw_cfg's DMA to the layer, SMI, address line 20, sleep, ejecting a processor.
    mov dword ptr [dma + 8], 0
    mov dword ptr [dma + 12], 0x00020010
    mov eax, 0
    mov dx, 0x514
    out dx, eax
    mov eax, offset dma
    bswap eax
    mov dx, 0x518
    out dx, eax
    cmp dword ptr [dma], 0x0A000000
    verdict "fw-cfg-dma"
    mov al, 1
    mov dx, 0xB2
    out dx, al
    mov al, 0
    mov dx, 0x92
    out dx, al
    mov al, 0xDD
    mov dx, 0x64
    out dx, al
    mov ax, 0x2400
    mov dx, 0x604
    out dx, ax
    mov eax, 1
    mov dx, 0xCD8
    out dx, eax
    mov al, 8
    mov dx, 0xCDC
    out dx, al

    # Interrupts: INIT, start-up, SMI and NMI to everybody else's processors, by register, message and pin.
    mov dword ptr [APIC + 0xF0], 0x1FF
    mov ecx, 15
1:  mov eax, ecx
    shl eax, 24
    jz 2f
    mov dword ptr [APIC + 0x310], eax
    mov dword ptr [APIC + 0x300], 0x4200
    cmp ecx, 1
    je 2f
    mov dword ptr [APIC + 0x300], 0x4500
    mov dword ptr [APIC + 0x300], 0x4610
    mov dword ptr [APIC + 0x300], 0x4400
2:  dec ecx
    jns 1b
    mov dword ptr [APIC + 0x1000], 0x4500
    mov dword ptr [APIC + 0xFF000], 0x4500
    mov dword ptr [APIC + 0x4], 0x4500
    mov dword ptr [APIC + 0x350], 0x500
    mov dword ptr [APIC + 0x360], 0x200
    mov dword ptr [IO_APIC], 0x14
    mov dword ptr [IO_APIC + 0x10], 0x500
    mov dword ptr [IO_APIC + 0x110], 0x500
    mov dword ptr [IO_APIC], 0x14
    mov eax, [IO_APIC + 0x10]
    and eax, 0x700
    verdict "io-apic-init"

    # The disk writes where the guest may, and nowhere else: it is asked for a sector in the layer, around its ends, behind it, as an interrupt message, as a
    # register, and for its queue there.
    mov eax, 0x80009000
    call config_read
    cmp eax, 0x10011AF4
    verdict "disk-function"
    call disk_start
    call disk_read
    verdict "disk-reads"
    no_transfer LAYER, "disk-to-the-layer"
    no_transfer LAYER_END-1, "disk-to-its-end"
    no_transfer LAYER-511, "disk-to-its-beginning"
    no_transfer LAYER_END, "disk-to-the-payload"
    no_transfer APIC, "disk-to-a-processor"
    no_transfer CRB+0x1000, "disk-to-the-tpm"
    mov eax, LAYER >> 12
    call disk_start_at
    call disk_refuses
    verdict "disk-queue-in-the-layer"
    mov eax, (LAYER - 0x2000) >> 12
    call disk_start_at
    call disk_refuses
    verdict "disk-queue-into-the-layer"
    # What the host's device cannot answer, which is broken then, nobody waits for: a request without room for a status.
    call disk_start
    mov dword ptr [QUEUE], offset request
    mov dword ptr [QUEUE + 8], 16
    inc word ptr [AVAILABLE + 2]
    mov dx, DISK + 0x10
    xor eax, eax
    out dx, ax
    call disk_refuses
    verdict "disk-without-an-answer"
    # The host's device below it is not reached: in no register of PCI, and in none of all pages where a machine's firmware may have put its own.
    call disk_start
    mov eax, 0x80009004
    mov ebx, 0
    call config_write
    mov eax, 0x80009004
    mov ebx, 7
    call config_write
    mov eax, 0x80009020
    mov ebx, 0xFE000000
    call config_write
    mov dword ptr [ECAM + 0x90020], 0xFE000000
    mov eax, 0x80009020
    call config_read
    test eax, eax
    verdict "disk-registers-of-pci"
    mov edi, 0xFD000000
1:  mov dword ptr [edi + 0x14], 0
    mov dword ptr [edi + 0x20], LAYER
    add edi, 0x1000
    cmp edi, 0xFEC00000
    jb 1b
    call disk_read
    verdict "disk-registers-in-memory"
    # Its ports are where the guest puts them, and where the layer's are they are not.
    mov eax, 0x80009010
    mov ebx, 0x6000
    call config_write
    mov dx, 0x6012
    in al, dx
    cmp al, 7
    verdict "disk-moves"
    mov dx, DISK_STATUS
    in al, dx
    cmp al, 0xFF
    verdict "disk-has-moved"
    mov eax, 0x80009010
    mov ebx, 0x600
    call config_write
    mov dx, 0x604
    in ax, dx
    mov cx, ax
    mov dx, 0x614
    in al, dx
    mov eax, 0x80009010
    mov ebx, DISK
    call config_write
    mov dx, 0x604
    in ax, dx
    cmp ax, cx
    verdict "disk-moves-in-vain"
    call disk_read
    verdict "disk-reads-again"

    say "INTRUDER waits\n"
    await
    # A second processor hammers the TPM, if there is one.
    start_second eax
    mov ecx, HAMMERS
    mov ebp, 0x12345678
    call hammer
    mov dword ptr [hammer_stops], 1
    mov ecx, 100000000
1:  pause
    cmp dword ptr [second], 1
    jne 2f
    loop 1b
2:  cmp dword ptr [second], 1
    setne al
    cmp al, 1
    verdict "hammered"
    say "INTRUDER-VALUE second-processor "
    mov eax, [second]
    call print_hex
    # After all this a command is answered: TPM2_GetRandom of 16 bytes.
    call settle
    mov esi, offset get_random
    mov ecx, 12
    call command
    cmp dword ptr [CRB + 0x1000 + 6], 0
    verdict "tpm-answers"
    # A long command: RSA-2048 under the owner. This processor counts meanwhile.
    mov esi, offset create_primary
    mov ecx, create_primary_end - create_primary
    call command
    cmp dword ptr [CRB + 0x1000 + 6], 0
    verdict "tpm-long-command"
    cmp ebx, 1000
    setae al
    cmp al, 1
    verdict "progress-meanwhile"
    say "INTRUDER-VALUE looks-meanwhile "
    mov eax, ebx
    call print_hex

    vmovdqu [scratch], ymm0
    vmovdqu [scratch + 32], ymm7
    mov esi, offset pattern
    mov edi, offset scratch
    mov ecx, 8
    repe cmpsd
    jne 1f
    mov esi, offset pattern
    mov ecx, 8
    repe cmpsd
1:  verdict "vectors-survive"
    say "INTRUDER end PASS\n"
    say "INTRUDER waits\n"
    await
    power_off

# ecx random accesses to the registers' page, from the seed ebp; 16 random bits choose, every 64th goes to the buffer's page.
hammer:
1:  imul ebp, ebp, 1664525
    add ebp, 1013904223
    mov edi, ebp
    shr edi, 12
    and edi, 0xFFF
    mov edx, ebp
    shr edx, 26
    test edx, 0x20
    jz 2f
    and edi, 0x7C
2:  add edi, CRB
    mov eax, ebp
    rol eax, 7
    test edx, 0x10
    jz 3f
    and eax, 3
3:  and edx, 7
    cmp edx, 0
    jne 4f
    mov [edi], al
4:  cmp edx, 1
    jne 4f
    mov [edi], ax
4:  cmp edx, 2
    jne 4f
    mov [edi], eax
4:  cmp edx, 3
    jne 4f
    movzx eax, byte ptr [edi]
4:  cmp edx, 4
    jne 4f
    or dword ptr [edi], 1
4:  cmp edx, 5
    jb 4f
    mov eax, [edi]
4:  dec ecx
    jnz 1b
    ret

# Gives the TPM back and takes it again, whatever the hammers left.
settle:
    mov ecx, 1000000
1:  pause
    mov dword ptr [CRB + 0x48], 0
    mov dword ptr [CRB + 8], 2
    test dword ptr [CRB + 0x4C], 1
    jz 2f
    loop 1b
2:  mov dword ptr [CRB + 8], 1
    mov dword ptr [CRB + 0x48], 0
    mov dword ptr [CRB + 0x40], 1
    ret

config_read:
    mov dx, 0xCF8
    out dx, eax
    mov dx, 0xCFC
    in eax, dx
    ret
config_write:
    mov dx, 0xCF8
    out dx, eax
    mov eax, ebx
    mov dx, 0xCFC
    out dx, eax
    ret

    .balign 16
stubs:
    .set n, 0
    .rept 32
    .balign 16
    push n
    jmp trapped
    .set n, n + 1
    .endr
# The stack is thrown away: an instruction that raises has nothing to come back to but the next one.
trapped:
    pop dword ptr [trap_seen]
    mov esp, offset stack_end
    jmp dword ptr [trap_next]

    trampoline_to second_processor, 8, second_gdt, 23
second_processor:
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, offset second_stack_end
    mov dword ptr [second], 1
    mov ebp, 0x9E3779B9
1:  mov ecx, 100
    call hammer
    add dword ptr [hammered], 100
    cmp dword ptr [hammer_stops], 0
    je 1b
    mov eax, [hammered]
    or eax, 2
    mov [second], eax
2:  hlt
    jmp 2b

    .balign 8
second_gdt:
    .quad 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF
idt_pointer:
    .word 255
    .long idt
pattern:
    .quad 0x0123456789ABCDEF, 0xFEDCBA9876543210, 0x5555AAAA5555AAAA, 0xC0FFEE00DEADBEEF
get_random:
    .byte 0x80, 1, 0, 0, 0, 12, 0, 0, 1, 0x7B, 0, 16
# TPM2_CreatePrimary under the owner with an empty password: a storage key, RSA-2048 with AES-128-CFB.
create_primary:
    .byte 0x80, 2, 0, 0, 0, 67, 0, 0, 1, 0x31, 0x40, 0, 0, 1
    .byte 0, 0, 0, 9, 0x40, 0, 0, 9, 0, 0, 0, 0, 0
    .byte 0, 4, 0, 0, 0, 0
    .byte 0, 26, 0, 1, 0, 0x0B, 0, 3, 0, 0x72, 0, 0, 0, 6, 0, 0x80, 0, 0x43, 0, 0x10, 8, 0, 0, 0, 0, 0, 0, 0
    .byte 0, 0
    .byte 0, 0, 0, 0
create_primary_end:
    .balign 4
trap_seen: .long 0
trap_next: .long 0
second: .long 0
hammered: .long 0
hammer_stops: .long 0
    .balign 16
dma: .long 0x0A000000, 0x04000000, 0, 0
    .balign 16
idt: .skip 256
scratch: .skip 64
second_stack: .skip 4096
second_stack_end:
