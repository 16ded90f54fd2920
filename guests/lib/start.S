/* How does a guest begin? Two ways in, one way on: guest_main(vcpu, vcpus, multiboot info). See ../README.md. */
#include "abi.h"

#define CODE_SELECTOR 0x08
#define LAPIC_EOI 0xb0
#define PIC_MASTER_MASK 0x21
#define PIC_SLAVE_MASK 0xa1
#define CR0_PG 0x80000000
#define CR4_PAE 0x20
#define MSR_EFER 0xc0000080
#define EFER_LME 0x100
#define TABLE 0x3          /* present, writable */
#define LARGE_PAGE 0x83    /* and 2 MiB */

    .section .head, "ax"
multiboot_header:
    .long MULTIBOOT_HEADER_MAGIC
    .long MULTIBOOT_FLAG_PAGE_ALIGN | MULTIBOOT_FLAG_MEMORY
    .long -(MULTIBOOT_HEADER_MAGIC + (MULTIBOOT_FLAG_PAGE_ALIGN | MULTIBOOT_FLAG_MEMORY))

    .org LAB_HEADER
    .long LAB_MAGIC
    .long ABI_VERSION
    .quad start64
    .quad image_end

/* Multiboot: 32-bit protected mode, paging off, EBX = info. Build an identity map of 4 GiB and enter long mode. */
    .code32
    .globl start32
start32:
    cli
    movb $0xff, %al                 /* whatever the firmware left ticking: no interrupt but ours */
    outb %al, $PIC_MASTER_MASK
    outb %al, $PIC_SLAVE_MASK
    movl $GPA_PAGE_TABLES, %edi     /* firmware has used this memory: upper halves are written too */
    leal TABLE + PAGE_BYTES(%edi), %eax
    movl %eax, (%edi)
    movl $0, 4(%edi)
    movl $GPA_PAGE_TABLES + PAGE_BYTES, %edi
    leal TABLE + PAGE_BYTES(%edi), %eax
    movl $4, %ecx
1:  movl %eax, (%edi)               /* four directories, */
    movl $0, 4(%edi)
    addl $PAGE_BYTES, %eax
    addl $8, %edi
    loop 1b
    movl $GPA_PAGE_TABLES + 2 * PAGE_BYTES, %edi
    movl $LARGE_PAGE, %eax
    movl $4 * 512, %ecx
2:  movl %eax, (%edi)               /* 512 large pages each */
    movl $0, 4(%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 2b
    movl $GPA_PAGE_TABLES, %eax
    movl %eax, %cr3
    movl %cr4, %eax
    orl $CR4_PAE, %eax
    movl %eax, %cr4
    movl $MSR_EFER, %ecx
    rdmsr
    orl $EFER_LME, %eax
    wrmsr
    movl %cr0, %eax
    orl $CR0_PG, %eax
    movl %eax, %cr0
    lgdt gdt_pointer
    movl %ebx, %edx
    xorl %edi, %edi                 /* vCPU 0 ... */
    movl $1, %esi                   /* ... of 1 */
    ljmp $CODE_SELECTOR, $start64

/* The lab's own entry: long mode, identity map, EDI = vCPU, ESI = number of vCPUs, EDX = info. */
    .code64
    .globl start64
start64:
    lgdt gdt_pointer
    leal 1(%rdi), %eax
    shll $STACK_SHIFT, %eax
    leaq GPA_STACKS(%rax), %rsp
    xorl %ebp, %ebp
    call guest_main
3:  cli                             /* a guest that returns has nothing more to do */
    hlt
    jmp 3b

/* Interrupts: count, acknowledge, return. The LAPIC is at a fixed address in the identity map. */
    .text
.macro interrupt_entry name, counter
    .globl \name
\name:
    pushq %rax
    movl $GPA_LAPIC, %eax
    lock incq \counter
    movl $0, LAPIC_EOI(%rax)
    popq %rax
    iretq
.endm
/* A line stays high until the device's ISR has been read. The read says whose interrupt it was: with several vCPUs each
 * gets one, and the first to read finds the bit. */
    .globl on_line_interrupt
on_line_interrupt:
    pushq %rax
    pushq %rdx
    movzwl line_isr, %edx
    inb %dx, %al
    testb $ISR_QUEUE, %al
    jz 4f
    lock incq device_interrupts
4:  movl $GPA_LAPIC, %eax
    movl $0, LAPIC_EOI(%rax)
    popq %rdx
    popq %rax
    iretq

    interrupt_entry on_device_interrupt, device_interrupts
    interrupt_entry on_timer_interrupt, timer_interrupts

    .section .rodata
    .balign 8
gdt:
    .quad 0
    .quad 0x00af9b000000ffff        /* CODE_SELECTOR: 64-bit code */
    .quad 0x00cf93000000ffff        /* DATA_SELECTOR */
gdt_pointer:
    .word . - gdt - 1
    .quad gdt
