/* The interrupt controllers among themselves: a word of an interrupt, and who does what with it.
 *
 *   message ──────────────────────────┐
 *   line ─┬─► ioapic.c ───────────────┴─► apic.c, of each vCPU ─► accept
 *         └─► pic.c ─── INTR, at LINT0 ──────────────────────────►
 */
#ifndef LABKIT_IRQCHIP_H
#define LABKIT_IRQCHIP_H

#include "core.h"

/* -- what the interrupt command register, the I/O APIC's entries, the LVT and a message's data have in common -------- */
enum { DELIVER_FIXED, DELIVER_LOWEST, DELIVER_SMI, DELIVER_NMI = 4, DELIVER_INIT, DELIVER_STARTUP, DELIVER_EXTINT };
enum {
    WORD_VECTOR = 0xff,
    WORD_MODE = 0x700, /* DELIVER_* */
    WORD_MODE_SHIFT = 8,
    WORD_LOGICAL = 1 << 11, /* the destination is a set of LDRs, else an ID */
    WORD_PENDING = 1 << 12, /* never seen: all is delivered at once */
    WORD_POLARITY = 1 << 13,
    WORD_REMOTE_IRR = 1 << 14,
    WORD_LEVEL = 1 << 15, /* triggered by level, else by edge */
    WORD_MASKED = 1 << 16,
};

typedef struct {
    uint8_t vector, mode, destination;
    int logical, level;
    int redirectable; /* to one of the destination's, even if the mode says to all */
} interrupt;

/* -- local APICs: apic.c, their timers: apic_timer.c ----------------------------------------------------------------- */

#define APIC_BYTES 0x400
#define APIC_STRIDE 16 /* from one register of 32 bits to the next */
#define APIC_REGISTERS (APIC_BYTES / APIC_STRIDE)

typedef struct {
    uint32_t registers[APIC_REGISTERS];
    uint64_t timer_end_ns; /* NO_TIMER: it stands still */
    int init, sipi, nmi; /* sent, not taken by the vCPU yet */
    uint8_t sipi_vector;
} local_apic;

/* Registers, by their offset. */
enum {
    APIC_ID = 0x020,
    APIC_VERSION = 0x030,
    APIC_TPR = 0x080,
    APIC_PPR = 0x0a0,
    APIC_EOI = 0x0b0,
    APIC_LDR = 0x0d0,
    APIC_DFR = 0x0e0,
    APIC_SVR = 0x0f0,
    APIC_ISR = 0x100, /* eight each, a bit a vector */
    APIC_TMR = 0x180,
    APIC_IRR = 0x200,
    APIC_ICR = 0x300,
    APIC_ICR_HIGH = 0x310,
    APIC_LVT_TIMER = 0x320,
    APIC_LVT_THERMAL = 0x330,
    APIC_LVT_PERFORMANCE = 0x340,
    APIC_LVT_LINT0 = 0x350,
    APIC_LVT_LINT1 = 0x360,
    APIC_LVT_ERROR = 0x370,
    APIC_TIMER_INITIAL = 0x380,
    APIC_TIMER_CURRENT = 0x390,
    APIC_TIMER_DIVIDE = 0x3e0,
};
enum { LVT_TIMER_PERIODIC = 1 << 17 };

static inline uint32_t *apic_register(local_apic *apic, unsigned offset)
{
    return &apic->registers[offset / APIC_STRIDE];
}

static inline uint32_t apic_value(const local_apic *apic, unsigned offset)
{
    return apic->registers[offset / APIC_STRIDE];
}

void apic_reset(lk_irqchip *chip, unsigned vcpu);
void apic_believe(local_apic *apic);
void apic_init(lk_irqchip *chip, unsigned vcpu);
uint32_t apic_read(const lk_irqchip *chip, unsigned vcpu, unsigned offset);
void apic_write(lk_irqchip *chip, unsigned vcpu, unsigned offset, uint32_t value);
interrupt apic_interrupt(uint32_t word, uint8_t destination);
int apic_take(local_apic *apic, const interrupt *sent);
int apic_deliver(lk_irqchip *chip, const interrupt *sent);
int apic_pending(const local_apic *apic);
int apic_accept(local_apic *apic);
int apic_takes_extint(const local_apic *apic);

uint32_t apic_timer_left(const local_apic *apic, uint64_t now_ns);
void apic_timer_start(local_apic *apic, uint64_t now_ns);
void apic_timer_divided(local_apic *apic, uint32_t before, uint64_t now_ns);
void apic_timer_expire(local_apic *apic, uint64_t now_ns);
uint64_t apic_timer_next(const local_apic *apic);

/* -- I/O APIC: ioapic.c ------------------------------------------------------------------------------------------------ */

#define IOAPIC_BYTES 0x100

typedef struct {
    uint8_t select, id;
    uint32_t lines; /* those that are high */
    uint64_t entries[IOAPIC_PINS];
} io_apic;

void ioapic_reset(io_apic *ioapic);
uint32_t ioapic_read(const io_apic *ioapic, unsigned offset);
void ioapic_write(lk_irqchip *chip, unsigned offset, uint32_t value);
void ioapic_line(lk_irqchip *chip, unsigned pin, int level);
void ioapic_end_of_interrupt(lk_irqchip *chip, uint8_t vector);

/* -- the two 8259: pic.c ----------------------------------------------------------------------------------------------- */

typedef struct {
    uint8_t irr, isr, imr, high; /* a bit a line: wanted, in service, masked, high at the moment */
    uint8_t elcr, elcr_writable; /* lines that are levels, else edges */
    uint8_t cascade; /* the line where the other one asks: the first has it, as a bit */
    uint8_t base; /* vector of line 0 */
    uint8_t first; /* the line of highest priority */
    uint8_t expects; /* which of the words that follow ICW1 comes next */
    int has_icw4, auto_end, rotates, nested;
    int reads_isr, polled;
} pic;

void pic_reset(pic pics[2]);
void pic_believe(pic pics[2]);
int pic_serves(uint16_t port);
uint8_t pic_read(pic pics[2], uint16_t port);
void pic_write(pic pics[2], uint16_t port, uint8_t value);
void pic_line(pic pics[2], unsigned pin, int level);
int pic_pending(const pic pics[2]);
int pic_accept(pic pics[2]);

struct lk_irqchip {
    unsigned vcpus;
    int full; /* has I/O APIC and PICs */
    uint64_t now_ns;
    local_apic apics[VCPUS_MAX];
    io_apic ioapic;
    pic pics[2];
};

#endif
