/* How does an interrupt arrive? By MSI at the local APIC, or as the level of a line by way of the I/O APIC. A slow timer
 * ticks beside it, so that no hlt is for ever. */
#include "irq.h"
#include "x86.h"

#define SPURIOUS_VECTOR 0xff
#define TIMER_VECTOR 0x41
#define LINE_VECTOR 0x42
#define LAPIC_SPURIOUS 0xf0
#define LAPIC_ENABLE 0x100
#define LAPIC_TIMER 0x320
#define LAPIC_TIMER_PERIODIC 0x20000
#define LAPIC_TIMER_COUNT 0x380
#define LAPIC_TIMER_DIVIDE 0x3e0
#define DIVIDE_BY_16 0x3
#define TIMER_PERIOD 6250000 /* with a bus clock of 1 GHz: 100 ms */
#define MSI_ALL 0xff000 /* physical destination: everybody */
#define IOAPIC_SELECT 0x00 /* which register ... */
#define IOAPIC_WINDOW 0x10 /* ... is seen here */
#define IOAPIC_VERSION 0x01
#define IOAPIC_ENTRY 0x10 /* of pin n: two registers from IOAPIC_ENTRY + 2 * n */
#define IOAPIC_LEVEL 0x8000 /* fixed delivery to a physical destination, active high, not masked: all zero */
#define IOAPIC_TO 24 /* destination, in the upper register */
#define IOAPIC_ALL 0xff
#define NOBODY 0xffffffff
#define GATE_INTERRUPT 0x8e00
#define CODE_SELECTOR 0x08

typedef struct {
    uint16_t offset_low, selector, flags, offset_middle;
    uint32_t offset_high, reserved;
} gate;

volatile uint64_t device_interrupts, timer_interrupts;
uint16_t line_isr; /* port of the ISR of the device whose line it is */
void on_device_interrupt(void);
void on_line_interrupt(void);
void on_timer_interrupt(void);

static gate idt[SPURIOUS_VECTOR + 1];
static bool ready[VCPUS_MAX];

static void set_gate(unsigned vector, void (*entry)(void))
{
    uint64_t address = (uint64_t)entry;
    idt[vector] = (gate){
        .offset_low = (uint16_t)address,
        .selector = CODE_SELECTOR,
        .flags = GATE_INTERRUPT,
        .offset_middle = (uint16_t)(address >> 16),
        .offset_high = (uint32_t)(address >> 32),
    };
}

/* Gates for four vectors only: any exception is a triple fault, and the host says where. */
static void set_up(void)
{
    struct __attribute__((packed)) {
        uint16_t limit;
        gate *base;
    } pointer = {sizeof idt - 1, idt};
    set_gate(DEVICE_VECTOR, on_device_interrupt);
    set_gate(TIMER_VECTOR, on_timer_interrupt);
    set_gate(LINE_VECTOR, on_line_interrupt);
    set_gate(SPURIOUS_VECTOR, on_timer_interrupt);
    __asm__ volatile("lidt %0" ::"m"(pointer));
    store32(GPA_LAPIC + LAPIC_SPURIOUS, LAPIC_ENABLE | SPURIOUS_VECTOR);
    store32(GPA_LAPIC + LAPIC_TIMER_DIVIDE, DIVIDE_BY_16);
    store32(GPA_LAPIC + LAPIC_TIMER, LAPIC_TIMER_PERIODIC | TIMER_VECTOR);
    store32(GPA_LAPIC + LAPIC_TIMER_COUNT, TIMER_PERIOD);
}

void irq_here(void)
{
    uint32_t vcpu = this_vcpu();
    if (ready[vcpu])
        return;
    ready[vcpu] = true;
    set_up();
}

/* One vCPU: to it. Several: to all, so that whoever halts wakes up. */
uint64_t irq_message(uint32_t vcpus)
{
    return GPA_LAPIC | (vcpus > 1 ? MSI_ALL : 0);
}

static void ioapic_write(uint32_t index, uint32_t value)
{
    store32(GPA_IOAPIC + IOAPIC_SELECT, index);
    store32(GPA_IOAPIC + IOAPIC_WINDOW, value);
}

static bool ioapic_is_there(void)
{
    store32(GPA_IOAPIC + IOAPIC_SELECT, IOAPIC_VERSION);
    return load32(GPA_IOAPIC + IOAPIC_WINDOW) != NOBODY;
}

/* The destination first: with the lower half the entry is live. Reached are the same as by irq_message. */
bool irq_line(uint32_t pin, uint16_t isr, uint32_t vcpus)
{
    if (pin >= IOAPIC_PINS || !ioapic_is_there())
        return false;
    line_isr = isr;
    ioapic_write(IOAPIC_ENTRY + 2 * pin + 1, vcpus > 1 ? (uint32_t)IOAPIC_ALL << IOAPIC_TO : 0);
    ioapic_write(IOAPIC_ENTRY + 2 * pin, IOAPIC_LEVEL | LINE_VECTOR);
    return true;
}
