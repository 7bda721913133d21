/*
 * SPDX-License-Identifier: GPL-2.0-or-later
 *
 * Boot sector of the workload guest: read the rest of the floppy's first
 * track behind itself, enter 32-bit protected mode with SSE enabled, and call
 * guest_main().  Also the interrupt stubs, which C cannot express.
 *
 * Memory map: 0x0500-0x6fff stack, 0x7c00 this sector, 0x7e00 the parameters
 * and the C code, 0xa000 .bss.  Everything above 16 MiB is workload.
 */
        .intel_syntax noprefix

        .equ LOAD_SECTORS, 17           /* track of 18 less this sector */
        .equ CODE_SEG, 0x08
        .equ DATA_SEG, 0x10

        .section .boot, "ax"
        .code16
        .globl boot_start
boot_start:
        ljmp 0, offset set_cs
set_cs:
        cli
        xor ax, ax
        mov ds, ax
        mov es, ax
        mov ss, ax
        mov sp, 0x7c00
        sti
        mov di, 3                       /* a floppy may need a few tries */
read_track:
        mov ax, 0x0200 + LOAD_SECTORS
        mov bx, 0x7e00
        mov cx, 0x0002                  /* cylinder 0, sector 2 */
        mov dh, 0
        int 0x13                        /* drive: DL as the BIOS left it */
        jnc loaded
        xor ax, ax
        int 0x13
        dec di
        jnz read_track
        mov si, offset read_error
print_error:
        lodsb
        test al, al
        jz halted
        mov dx, 0x3f8
        out dx, al
        jmp print_error
halted:
        hlt
        jmp halted
loaded:
        cli
        in al, 0x92                     /* open the A20 gate */
        or al, 2
        out 0x92, al
        lgdt [gdt_pointer]
        mov eax, cr0
        or al, 1
        mov cr0, eax
        ljmp CODE_SEG, offset protected

        .code32
protected:
        mov ax, DATA_SEG
        mov ds, ax
        mov es, ax
        mov fs, ax
        mov gs, ax
        mov ss, ax
        mov esp, 0x7000                 /* not in a page that holds code */
        mov eax, cr0
        and al, 0xfb                    /* EM off: there is an FPU */
        or al, 0x02                     /* MP on */
        mov cr0, eax
        mov eax, cr4
        or eax, 0x600                   /* OSFXSR, OSXMMEXCPT: SSE works */
        mov cr4, eax
        mov edi, offset bss_start
        mov ecx, offset bss_end
        sub ecx, edi
        xor eax, eax
        cld
        rep stosb
        call guest_main
1:
        hlt
        jmp 1b

read_error:
        .asciz "error cannot read the boot floppy\r\n"

        .balign 8
gdt:
        .quad 0
        .quad 0x00cf9a000000ffff        /* flat 4 GiB code */
        .quad 0x00cf92000000ffff        /* flat 4 GiB data */
gdt_pointer:
        .word gdt_pointer - gdt - 1
        .long gdt

        .org 510
        .word 0xaa55

        .text
        .globl timer_entry
timer_entry:
        pusha
        cld
        call guest_tick
        mov al, 0x20                    /* end of interrupt */
        out 0x20, al
        popa
        iret

        .globl trap_entry
trap_entry:
        cld
        call guest_trap                 /* does not return */

        .section .note.GNU-stack, "", @progbits
