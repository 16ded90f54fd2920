/* Where does a line of the board lead? To the local APICs that the pin's entry names, by edge or by level.
 *
 * A level that was taken waits, as Remote IRR, until its end comes back; if it is high then, it interrupts again. */
#include "irqchip.h"

enum { SELECT = 0x00, WINDOW = 0x10 }; /* in its memory: which register, and the register */
enum { ID = 0x00, VERSION = 0x01, ARBITRATION = 0x02, ENTRIES = 0x10 }; /* registers; two for each pin's entry */

#define VERSION_VALUE (0x11 | (IOAPIC_PINS - 1) << 16)
#define ID_SHIFT 24
#define ID_MAX 0xf
#define ENTRY_DESTINATION 56
#define READ_ONLY (uint64_t)(WORD_PENDING | WORD_REMOTE_IRR)
#define NO_ENTRY 0xffffffff /* what is read of a pin that is not there */

void ioapic_reset(io_apic *ioapic)
{
    *ioapic = (io_apic){0};
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        ioapic->entries[pin] = WORD_MASKED;
}

/* The pin is high: interrupts, unless it is masked or a level that waits for its end. */
static void interrupt_by(lk_irqchip *chip, unsigned pin)
{
    uint64_t *entry = &chip->ioapic.entries[pin];
    interrupt sent = apic_interrupt((uint32_t)*entry, (uint8_t)(*entry >> ENTRY_DESTINATION));
    if (*entry & WORD_MASKED || (sent.level && *entry & WORD_REMOTE_IRR))
        return;
    if (apic_deliver(chip, &sent) && sent.level)
        *entry |= WORD_REMOTE_IRR;
}

static int high_level(const io_apic *ioapic, unsigned pin)
{
    return ioapic->entries[pin] & WORD_LEVEL && ioapic->lines >> pin & 1;
}

/* An edge that finds its pin masked is lost. */
void ioapic_line(lk_irqchip *chip, unsigned pin, int level)
{
    uint32_t before = chip->ioapic.lines, line = 1u << pin;
    chip->ioapic.lines = level ? before | line : before & ~line;
    int rises = level && !(before & line);
    if (rises || high_level(&chip->ioapic, pin))
        interrupt_by(chip, pin);
}

/* A local APIC has ended a vector that came as a level. */
void ioapic_end_of_interrupt(lk_irqchip *chip, uint8_t vector)
{
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        uint64_t *entry = &chip->ioapic.entries[pin];
        if ((*entry & WORD_VECTOR) != vector || !(*entry & WORD_LEVEL))
            continue;
        *entry &= ~(uint64_t)WORD_REMOTE_IRR;
        if (high_level(&chip->ioapic, pin))
            interrupt_by(chip, pin);
    }
}

static uint32_t read_register(const io_apic *ioapic)
{
    unsigned pin = (ioapic->select - ENTRIES) / 2u;
    switch (ioapic->select) {
    case ID:
    case ARBITRATION:
        return (uint32_t)ioapic->id << ID_SHIFT;
    case VERSION:
        return VERSION_VALUE;
    default:
        return pin < IOAPIC_PINS ? (uint32_t)(ioapic->entries[pin] >> 32 * (ioapic->select & 1)) : NO_ENTRY;
    }
}

/* One half of an entry. Made an edge, it waits for no end any more; made a level or unmasked, it may be high already. */
static void write_entry(lk_irqchip *chip, unsigned pin, unsigned half, uint32_t value)
{
    uint64_t *entry = &chip->ioapic.entries[pin], bits = 0xffffffffull << 32 * half & ~READ_ONLY;
    *entry = (*entry & ~bits) | ((uint64_t)value << 32 * half & bits);
    if (!(*entry & WORD_LEVEL))
        *entry &= ~(uint64_t)WORD_REMOTE_IRR;
    if (high_level(&chip->ioapic, pin))
        interrupt_by(chip, pin);
}

uint32_t ioapic_read(const io_apic *ioapic, unsigned offset)
{
    return offset == SELECT ? ioapic->select : offset == WINDOW ? read_register(ioapic) : 0;
}

void ioapic_write(lk_irqchip *chip, unsigned offset, uint32_t value)
{
    io_apic *ioapic = &chip->ioapic;
    unsigned pin = (ioapic->select - ENTRIES) / 2u;
    if (offset == SELECT)
        ioapic->select = (uint8_t)value;
    else if (offset == WINDOW && ioapic->select == ID)
        ioapic->id = value >> ID_SHIFT & ID_MAX;
    else if (offset == WINDOW && pin < IOAPIC_PINS)
        write_entry(chip, pin, ioapic->select & 1, value);
}
