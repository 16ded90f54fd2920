/* What does a local APIC hold for its vCPU, and whose is it to take an interrupt? (Intel SDM volume 3, "APIC")
 *
 * A vector that arrives is a bit in IRR; the vCPU accepts it, and it moves to ISR; the guest ends it, and it is gone. The
 * upper half of a vector is its priority. */
#include "irqchip.h"

#define CLASS 0xf0 /* of a vector, TPR and PPR: the priority */
#define BANK_BITS 32 /* vectors in each of the eight registers of ISR, TMR and IRR */
#define BANKS 8
#define EVERYBODY 0xff /* as a destination */
#define VERSION 0x00050014 /* six LVT entries */
#define VERSION_DIRECTED_EOI (1 << 24)
#define SVR_AT_RESET 0xff
#define SVR_ENABLED (1 << 8)
#define SVR_DIRECTED_EOI (1 << 12) /* concerns an I/O APIC that is not here */
#define ICR_ASSERT (1 << 14)
#define ICR_SHORTHAND 18
#define TOP_BYTE 24 /* of ID, LDR and ICR_HIGH: all there is in them */
#define DFR_MODEL 28
#define BIT(n) (1u << (n))

enum { TO_DESTINATION, TO_SELF, TO_ALL, TO_OTHERS }; /* ICR_SHORTHAND */
enum { DFR_CLUSTER = 0x0, DFR_FLAT = 0xf };
enum {
    LVT_BITS = WORD_VECTOR | WORD_PENDING | WORD_MASKED,
    LVT_LINE_BITS = LVT_BITS | WORD_MODE | WORD_POLARITY | WORD_REMOTE_IRR | WORD_LEVEL,
};

#define AT(offset) ((offset) / APIC_STRIDE)

/* The bits that a write changes; all others stay as they are. */
static const uint32_t writable[APIC_REGISTERS] = {
    [AT(APIC_ID)] = 0xff000000,
    [AT(APIC_TPR)] = 0xff,
    [AT(APIC_LDR)] = 0xff000000,
    [AT(APIC_DFR)] = 0xf0000000,
    [AT(APIC_SVR)] = 0x3ff,
    [AT(APIC_ICR)] = ~(uint32_t)WORD_PENDING,
    [AT(APIC_ICR_HIGH)] = 0xff000000,
    [AT(APIC_LVT_TIMER)] = LVT_BITS | LVT_TIMER_PERIODIC,
    [AT(APIC_LVT_THERMAL)] = LVT_BITS | WORD_MODE,
    [AT(APIC_LVT_PERFORMANCE)] = LVT_BITS | WORD_MODE,
    [AT(APIC_LVT_LINT0)] = LVT_LINE_BITS,
    [AT(APIC_LVT_LINT1)] = LVT_LINE_BITS,
    [AT(APIC_LVT_ERROR)] = LVT_BITS,
    [AT(APIC_TIMER_INITIAL)] = 0xffffffff,
    [AT(APIC_TIMER_DIVIDE)] = 0xb,
};

/* -- vectors: a bit each in ISR, TMR and IRR -------------------------------------------------------------------------- */

static uint32_t *bank(local_apic *apic, unsigned registers, uint8_t vector)
{
    return apic_register(apic, registers + vector / BANK_BITS * APIC_STRIDE);
}

static int has(local_apic *apic, unsigned registers, uint8_t vector)
{
    return *bank(apic, registers, vector) >> vector % BANK_BITS & 1;
}

static void put(local_apic *apic, unsigned registers, uint8_t vector, int set)
{
    uint32_t *word = bank(apic, registers, vector), bit = BIT(vector % BANK_BITS);
    *word = set ? *word | bit : *word & ~bit;
}

static int highest(const local_apic *apic, unsigned registers)
{
    for (unsigned i = BANKS; i--;) {
        uint32_t word = apic_value(apic, registers + i * APIC_STRIDE);
        if (word)
            return (int)(i * BANK_BITS) + BANK_BITS - 1 - __builtin_clz(word);
    }
    return NO_INTERRUPT;
}

static int enabled(const local_apic *apic)
{
    return apic_value(apic, APIC_SVR) & SVR_ENABLED ? 1 : 0;
}

/* What is in service keeps away what is not more urgent, and so does TPR. */
static uint32_t processor_priority(const local_apic *apic)
{
    uint32_t tpr = apic_value(apic, APIC_TPR);
    int serviced = highest(apic, APIC_ISR);
    return serviced != NO_INTERRUPT && (serviced & CLASS) > (int)(tpr & CLASS) ? (uint32_t)serviced & CLASS : tpr;
}

/* The vector this vCPU would take, or NO_INTERRUPT. An APIC that was disabled keeps what it had. */
int apic_pending(const local_apic *apic)
{
    int vector = highest(apic, APIC_IRR);
    return vector != NO_INTERRUPT && (uint32_t)(vector & CLASS) > processor_priority(apic) ? vector : NO_INTERRUPT;
}

int apic_accept(local_apic *apic)
{
    int vector = apic_pending(apic);
    if (vector == NO_INTERRUPT)
        return NO_INTERRUPT;
    put(apic, APIC_IRR, (uint8_t)vector, 0);
    put(apic, APIC_ISR, (uint8_t)vector, 1);
    return vector;
}

/* A level that was taken may be high still: the I/O APIC looks. */
static void end_of_interrupt(lk_irqchip *chip, local_apic *apic)
{
    int vector = highest(apic, APIC_ISR);
    if (vector == NO_INTERRUPT)
        return;
    put(apic, APIC_ISR, (uint8_t)vector, 0);
    if (has(apic, APIC_TMR, (uint8_t)vector))
        ioapic_end_of_interrupt(chip, (uint8_t)vector);
}

/* Is LINT0 where the PICs ask, as on the first vCPU after power-on? */
int apic_takes_extint(const local_apic *apic)
{
    uint32_t lint0 = apic_value(apic, APIC_LVT_LINT0);
    return !(lint0 & WORD_MASKED) && (lint0 & WORD_MODE) >> WORD_MODE_SHIFT == DELIVER_EXTINT;
}

/* -- delivery ----------------------------------------------------------------------------------------------------------- */

interrupt apic_interrupt(uint32_t word, uint8_t destination)
{
    return (interrupt){.vector = (uint8_t)word,
                       .mode = (word & WORD_MODE) >> WORD_MODE_SHIFT,
                       .destination = destination,
                       .logical = (word & WORD_LOGICAL) != 0,
                       .level = (word & WORD_LEVEL) != 0};
}

/* 1 if it was taken. No SMI here, and what comes as ExtINT has no controller that knows its vector. */
int apic_take(local_apic *apic, const interrupt *sent)
{
    switch (sent->mode) {
    case DELIVER_FIXED:
    case DELIVER_LOWEST:
        if (!enabled(apic))
            return 0;
        put(apic, APIC_TMR, sent->vector, sent->level);
        put(apic, APIC_IRR, sent->vector, 1);
        return 1;
    case DELIVER_NMI:
        return apic->nmi = 1;
    case DELIVER_INIT:
        apic->sipi = 0; /* it was for the life before */
        return apic->init = 1;
    case DELIVER_STARTUP:
        apic->sipi_vector = sent->vector;
        return apic->sipi = 1;
    default:
        return 0;
    }
}

static int is_addressed(const local_apic *apic, uint8_t destination, int logical)
{
    if (destination == EVERYBODY)
        return 1;
    if (!logical)
        return apic_value(apic, APIC_ID) >> TOP_BYTE == destination;
    uint32_t both = apic_value(apic, APIC_LDR) >> TOP_BYTE & destination;
    switch (apic_value(apic, APIC_DFR) >> DFR_MODEL) {
    case DFR_FLAT:
        return both != 0;
    case DFR_CLUSTER: /* the upper half is the cluster's number, the lower half a bit for each of its members */
        return (both & 0xf) && apic_value(apic, APIC_LDR) >> (TOP_BYTE + 4) == destination >> 4;
    default:
        return 0;
    }
}

/* One of the enabled among them: the vector chooses, so that vectors spread over vCPUs and each stays at its own. */
static unsigned chosen(const lk_irqchip *chip, unsigned targets, uint8_t vector)
{
    for (unsigned vcpu = 0; vcpu < chip->vcpus; vcpu++)
        if (!enabled(&chip->apics[vcpu]))
            targets &= ~BIT(vcpu);
    if (!targets)
        return 0;
    for (unsigned skip = vector % (unsigned)__builtin_popcount(targets); skip; skip--)
        targets &= targets - 1;
    return targets & -targets;
}

/* `targets` has a bit for each vCPU. 1 if one of them took it. */
static int deliver(lk_irqchip *chip, const interrupt *sent, unsigned targets)
{
    int to_all = sent->destination == EVERYBODY && !sent->logical, taken = 0;
    if (sent->redirectable || (sent->mode == DELIVER_LOWEST && !to_all))
        targets = chosen(chip, targets, sent->vector);
    for (unsigned vcpu = 0; vcpu < chip->vcpus; vcpu++)
        if (targets & BIT(vcpu))
            taken |= apic_take(&chip->apics[vcpu], sent);
    return taken;
}

/* To whom it is addressed. 1 if somebody took it. */
int apic_deliver(lk_irqchip *chip, const interrupt *sent)
{
    unsigned targets = 0;
    for (unsigned vcpu = 0; vcpu < chip->vcpus; vcpu++)
        if (is_addressed(&chip->apics[vcpu], sent->destination, sent->logical))
            targets |= BIT(vcpu);
    return deliver(chip, sent, targets);
}

/* What the guest wrote to ICR goes to another vCPU, or to itself. A level that is let go interrupts nobody. */
static void send(lk_irqchip *chip, unsigned vcpu)
{
    const local_apic *apic = &chip->apics[vcpu];
    uint32_t word = apic_value(apic, APIC_ICR);
    interrupt sent = apic_interrupt(word, (uint8_t)(apic_value(apic, APIC_ICR_HIGH) >> TOP_BYTE));
    unsigned everybody = BIT(chip->vcpus) - 1, self = BIT(vcpu);
    if (sent.level && !(word & ICR_ASSERT))
        return;
    switch (word >> ICR_SHORTHAND & 3) {
    case TO_SELF:
        deliver(chip, &sent, self);
        break;
    case TO_ALL:
        deliver(chip, &sent, everybody);
        break;
    case TO_OTHERS:
        deliver(chip, &sent, everybody & ~self);
        break;
    default:
        apic_deliver(chip, &sent);
    }
}

/* -- registers ---------------------------------------------------------------------------------------------------------- */

/* Carries out an INIT: all but the ID as at power-on. A SIPI or NMI that came after it is still to be taken. */
void apic_init(lk_irqchip *chip, unsigned vcpu)
{
    local_apic *apic = &chip->apics[vcpu];
    uint32_t id = apic_value(apic, APIC_ID);
    memset(apic->registers, 0, sizeof apic->registers);
    apic->timer_end_ns = NO_TIMER;
    apic->init = 0;
    *apic_register(apic, APIC_ID) = id;
    *apic_register(apic, APIC_VERSION) = VERSION | (chip->full ? 0 : VERSION_DIRECTED_EOI);
    *apic_register(apic, APIC_DFR) = 0xffffffff;
    *apic_register(apic, APIC_SVR) = SVR_AT_RESET;
    for (unsigned offset = APIC_LVT_TIMER; offset <= APIC_LVT_ERROR; offset += APIC_STRIDE)
        *apic_register(apic, offset) = WORD_MASKED;
    if (vcpu == 0) /* the PICs' interrupts come as if there were no APIC */
        *apic_register(apic, APIC_LVT_LINT0) = DELIVER_EXTINT << WORD_MODE_SHIFT;
}

void apic_reset(lk_irqchip *chip, unsigned vcpu)
{
    chip->apics[vcpu] = (local_apic){0};
    *apic_register(&chip->apics[vcpu], APIC_ID) = vcpu << TOP_BYTE;
    apic_init(chip, vcpu);
}

/* A state that came from outside: registers are numbers, and any will do; a timer ends at a time, and that is one too. */
void apic_believe(local_apic *apic)
{
    apic->init = apic->init != 0;
    apic->sipi = apic->sipi != 0;
    apic->nmi = apic->nmi != 0;
}

/* What is no register, or only written to, has never been anything but 0. */
uint32_t apic_read(const lk_irqchip *chip, unsigned vcpu, unsigned offset)
{
    const local_apic *apic = &chip->apics[vcpu];
    switch (offset) {
    case APIC_PPR:
        return processor_priority(apic);
    case APIC_TIMER_CURRENT:
        return apic_timer_left(apic, chip->now_ns);
    default:
        return apic_value(apic, offset);
    }
}

/* A disabled APIC masks the LVT entries from `first` to `last`; the guest unmasks them when it has enabled it. */
static void mask_if_disabled(local_apic *apic, unsigned first, unsigned last)
{
    for (unsigned offset = first; offset <= last && !enabled(apic); offset += APIC_STRIDE)
        *apic_register(apic, offset) |= WORD_MASKED;
}

void apic_write(lk_irqchip *chip, unsigned vcpu, unsigned offset, uint32_t value)
{
    local_apic *apic = &chip->apics[vcpu];
    uint32_t *at = apic_register(apic, offset), before = *at, bits = writable[AT(offset)];
    if (offset == APIC_SVR && apic_value(apic, APIC_VERSION) & VERSION_DIRECTED_EOI)
        bits |= SVR_DIRECTED_EOI;
    *at = (before & ~bits) | (value & bits);
    switch (offset) {
    case APIC_EOI:
        end_of_interrupt(chip, apic);
        break;
    case APIC_ICR:
        send(chip, vcpu);
        break;
    case APIC_SVR:
        mask_if_disabled(apic, APIC_LVT_TIMER, APIC_LVT_ERROR);
        break;
    case APIC_LVT_TIMER ... APIC_LVT_ERROR:
        mask_if_disabled(apic, offset, offset);
        break;
    case APIC_TIMER_INITIAL:
        apic_timer_start(apic, chip->now_ns);
        break;
    case APIC_TIMER_DIVIDE:
        apic_timer_divided(apic, before, chip->now_ns);
        break;
    }
}
