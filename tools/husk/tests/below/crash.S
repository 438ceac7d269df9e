# A guest that sends NMIs. The second processor takes one, and while its handler runs another, which waits for the first one's IRET. Then
# the guest crashes as Linux does: one processor stops the other by an NMI, in whose handler it halts for ever, and resets the machine. The
# reset gives both back. Memory keeps its content over a reset: that is how it knows which time it is.
    .include "guest.inc"
    .include "second.inc"
    .set MARK, 0x00500000
    .set VECTOR_NMI, 2
    .set ICR_NMI, 0x4400

guest_name: .asciz "CRASH "
    .globl _start
_start:
    cli
    cld
    mov esp, offset stack_end
    mov dword ptr [second], 0
    mov dword ptr [inside], 0
    mov dword ptr [handled], 0
    mov dword ptr [nested], 0
    mov dword ptr [goes_on], 0
    mov eax, offset takes_nmi
    mov word ptr [second_idt + 8 * VECTOR_NMI], ax
    mov word ptr [second_idt + 8 * VECTOR_NMI + 2], 8
    mov word ptr [second_idt + 8 * VECTOR_NMI + 4], 0x8E00
    shr eax, 16
    mov word ptr [second_idt + 8 * VECTOR_NMI + 6], ax
    start_second eax
    mov edx, 1
    call until_second_is
    verdict "second-processor-runs"
    call nmi
    mov edx, 2
    call until_second_is
    verdict "second-processor-takes-an-nmi"
    call nmi
    mov ecx, 100000
1:  pause
    loop 1b
    cmp dword ptr [handled], 1
    verdict "second-nmi-waits"
    mov dword ptr [goes_on], 1
    mov edx, 3
    call until_second_is
    verdict "second-nmi-comes"
    cmp dword ptr [nested], 0
    verdict "one-at-a-time"
    call nmi
    mov edx, 4
    call until_second_is
    verdict "second-processor-halts-in-its-handler"
    cmp dword ptr [MARK], 0x5EC0D0AD
    je again
    mov dword ptr [MARK], 0x5EC0D0AD
    mov al, 6
    mov dx, 0xCF9
    out dx, al
1:  jmp 1b

again:
    say "CRASH end PASS\n"
    power_off

# An NMI to the second processor.
nmi:
    mov eax, APIC
    mov dword ptr [eax + 0x310], 0x01000000
    mov dword ptr [eax + 0x300], ICR_NMI
    ret

# Waits until `second` is edx; the zero flag says whether it is.
until_second_is:
    mov ecx, 10000000
1:  pause
    cmp dword ptr [second], edx
    je 2f
    loop 1b
    cmp dword ptr [second], edx
2:  ret

    trampoline_to second_processor, 8, second_gdt, 23
second_processor:
    mov ax, 16
    mov ds, ax
    mov es, ax
    mov ss, ax
    mov esp, offset second_stack_end
    lidt [second_idt_pointer]
    mov dword ptr [second], 1
1:  pause
    jmp 1b
# The first time it waits to be told to go on, the second time it only counts, the third time it stays.
takes_nmi:
    push eax
    cmp dword ptr [inside], 0
    je 1f
    inc dword ptr [nested]
1:  inc dword ptr [inside]
    inc dword ptr [handled]
    mov eax, [handled]
    inc eax
    mov [second], eax
    cmp eax, 4
    je 3f
2:  pause
    cmp dword ptr [goes_on], 0
    je 2b
    dec dword ptr [inside]
    pop eax
    iretd
3:  hlt
    jmp 3b

    .balign 8
second_gdt:
    .quad 0, 0x00CF9B000000FFFF, 0x00CF93000000FFFF
second_idt:
    .fill 3, 8, 0
second_idt_pointer:
    .word 23
    .long second_idt
    .balign 4
second: .long 0
inside: .long 0
handled: .long 0
nested: .long 0
goes_on: .long 0
    .balign 16
second_stack: .skip 1024
second_stack_end:
