/* Which interrupt controller is meant? Addresses, ports and lines of a PC, and the order in which a vCPU asks.
 *
 * What a guest sees is what KVM's controllers show it, the odd corners too: tests/test_irqchip_kvm.py compares. */
#include "irqchip.h"

enum { MESSAGE_LOGICAL = 2, MESSAGE_REDIRECTABLE = 3, MESSAGE_DESTINATION = 12 }; /* bits of its address */

/* NULL: there are no such number of vCPUs, or no memory. */
lk_irqchip *lk_irqchip_new(unsigned vcpus, int full)
{
    lk_irqchip *chip = vcpus && vcpus <= VCPUS_MAX ? calloc(1, sizeof *chip) : NULL;
    if (!chip)
        return NULL;
    chip->vcpus = vcpus;
    chip->full = full;
    lk_irqchip_reset(chip);
    return chip;
}

void lk_irqchip_free(lk_irqchip *chip)
{
    free(chip);
}

/* As at power-on, and the PICs as firmware leaves them. The clock goes on. */
void lk_irqchip_reset(lk_irqchip *chip)
{
    for (unsigned vcpu = 0; vcpu < chip->vcpus; vcpu++)
        apic_reset(chip, vcpu);
    ioapic_reset(&chip->ioapic);
    pic_reset(chip->pics);
}

uint64_t lk_irqchip_bytes(void)
{
    return sizeof(lk_irqchip);
}

void lk_irqchip_save(const lk_irqchip *chip, void *out)
{
    memcpy(out, chip, sizeof *chip);
}

/* As many bytes as lk_irqchip_bytes says, and any: what is there, stays there, and what is an index is made one. */
void lk_irqchip_load(lk_irqchip *chip, const void *state)
{
    const unsigned vcpus = chip->vcpus;
    const int full = chip->full;
    memcpy(chip, state, sizeof *chip);
    chip->vcpus = vcpus;
    chip->full = full;
    chip->ioapic.lines &= (1u << IOAPIC_PINS) - 1;
    for (unsigned vcpu = 0; vcpu < VCPUS_MAX; vcpu++)
        apic_believe(&chip->apics[vcpu]);
    pic_believe(chip->pics);
}

/* The local APIC as at power-on. An INIT is another thing: it keeps the ID, and comes by lk_irqchip_take_event. */
void lk_irqchip_reset_vcpu(lk_irqchip *chip, unsigned vcpu)
{
    if (vcpu < chip->vcpus)
        apic_reset(chip, vcpu);
}

static uint64_t cut(uint64_t value, unsigned width)
{
    return width < sizeof value ? value & ((1ull << 8 * width) - 1) : value;
}

/* A register is written whole or not at all, and a read that leaves it is 0. */
static void apic_access(lk_irqchip *chip, unsigned vcpu, unsigned offset, unsigned width, int write, uint64_t *value)
{
    unsigned within = offset % APIC_STRIDE, fits = offset < APIC_BYTES && within + width <= sizeof(uint32_t);
    if (!write)
        *value = fits ? apic_read(chip, vcpu, offset - within) >> 8 * within : 0;
    else if (fits && width == sizeof(uint32_t))
        apic_write(chip, vcpu, offset, (uint32_t)*value);
}

static void ioapic_access(lk_irqchip *chip, unsigned offset, unsigned width, int write, uint64_t *value)
{
    if (write)
        ioapic_write(chip, offset, (uint32_t)cut(*value, width));
    else
        *value = ioapic_read(&chip->ioapic, offset);
}

/* An access of 1 to 8 bytes. 1 if the address is a controller's; a read fills `value` then. */
int lk_irqchip_mmio(lk_irqchip *chip, unsigned vcpu, uint64_t gpa, unsigned width, int write, uint64_t *value)
{
    if (vcpu >= chip->vcpus || !width || width > sizeof *value)
        return 0;
    if (gpa >= GPA_LAPIC && gpa < GPA_LAPIC + (uint64_t)PAGE_BYTES)
        apic_access(chip, vcpu, (unsigned)(gpa - GPA_LAPIC), width, write, value);
    else if (chip->full && gpa >= GPA_IOAPIC && gpa < GPA_IOAPIC + (uint64_t)IOAPIC_BYTES)
        ioapic_access(chip, (unsigned)(gpa - GPA_IOAPIC), width, write, value);
    else
        return 0;
    if (!write)
        *value = cut(*value, width);
    return 1;
}

/* 1 if the ports are a PIC's; a read fills `value` then. They are bytes, in pairs: of two at once nothing is written, and
 * 0 is read. */
int lk_irqchip_port(lk_irqchip *chip, uint16_t port, unsigned width, int write, uint32_t *value)
{
    if (!chip->full || !pic_serves(port) || !width || width > 2u - port % 2)
        return 0;
    if (!write)
        *value = width == 1 ? pic_read(chip->pics, port) : 0;
    else if (width == 1)
        pic_write(chip->pics, port, (uint8_t)*value);
    return 1;
}

/* A message, as a device writes it. Whatever the address, it is taken for one of the local APICs'. */
void lk_irqchip_message(lk_irqchip *chip, uint64_t address, uint32_t data)
{
    interrupt sent = apic_interrupt(data, (uint8_t)(address >> MESSAGE_DESTINATION));
    sent.logical = address >> MESSAGE_LOGICAL & 1;
    sent.redirectable = address >> MESSAGE_REDIRECTABLE & 1;
    apic_deliver(chip, &sent);
}

/* A line of the board: to the pin of the I/O APIC, and one of the first 16 to a PIC as well. */
void lk_irqchip_line(lk_irqchip *chip, unsigned pin, int level)
{
    if (!chip->full || pin >= IOAPIC_PINS)
        return;
    if (pin < 2 * PIC_PINS)
        pic_line(chip->pics, pin, level);
    ioapic_line(chip, pin, level);
}

static int pic_asks(const lk_irqchip *chip, unsigned vcpu)
{
    return chip->full && pic_pending(chip->pics) && apic_takes_extint(&chip->apics[vcpu]);
}

/* Is there an interrupt that this vCPU would take, if it takes any? */
int lk_irqchip_pending(const lk_irqchip *chip, unsigned vcpu)
{
    return vcpu < chip->vcpus && (pic_asks(chip, vcpu) || apic_pending(&chip->apics[vcpu]) != NO_INTERRUPT);
}

/* Takes it: its vector, which is in service from now on; NO_INTERRUPT if there is none (any more). */
int lk_irqchip_accept(lk_irqchip *chip, unsigned vcpu)
{
    if (vcpu >= chip->vcpus)
        return NO_INTERRUPT;
    return pic_asks(chip, vcpu) ? pic_accept(chip->pics) : apic_accept(&chip->apics[vcpu]);
}

/* What else was sent to this vCPU, one at a time: SENT_*. The local APIC has carried out an INIT by then; a SIPI to a vCPU
 * that does not wait for one is the caller's to drop. */
int lk_irqchip_take_event(lk_irqchip *chip, unsigned vcpu, uint8_t *sipi_vector)
{
    local_apic *apic = vcpu < chip->vcpus ? &chip->apics[vcpu] : NULL;
    if (apic && apic->init) {
        apic_init(chip, vcpu);
        return SENT_INIT;
    }
    if (apic && apic->sipi) {
        apic->sipi = 0;
        *sipi_vector = apic->sipi_vector;
        return SENT_SIPI;
    }
    if (apic && apic->nmi) {
        apic->nmi = 0;
        return SENT_NMI;
    }
    return SENT_NOTHING;
}

/* When a timer interrupts next, on the clock of lk_irqchip_set_time; NO_TIMER: none will. */
uint64_t lk_irqchip_next_timer(const lk_irqchip *chip)
{
    uint64_t next = NO_TIMER;
    for (unsigned vcpu = 0; vcpu < chip->vcpus; vcpu++) {
        uint64_t due = apic_timer_next(&chip->apics[vcpu]);
        next = due < next ? due : next;
    }
    return next;
}

/* It is `now_ns`, not earlier than the last time: timers that are due interrupt, and those that a guest starts count from
 * here. */
void lk_irqchip_set_time(lk_irqchip *chip, uint64_t now_ns)
{
    chip->now_ns = now_ns;
    for (unsigned vcpu = 0; vcpu < chip->vcpus; vcpu++)
        apic_timer_expire(&chip->apics[vcpu], now_ns);
}
