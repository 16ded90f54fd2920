/* Which line of the two 8259 does the CPU hear? The second one's outcome is line 2 of the first. (Intel 8259A data sheet)
 *
 * Lines have an order that can rotate; what is in service keeps away itself and all behind it. */
#include "irqchip.h"

enum { MASTER, SLAVE };
enum { COMMAND, MASK }; /* the two ports of each */

#define PORT_MASTER 0x20
#define PORT_SLAVE 0xa0
#define PORT_ELCR 0x4d0 /* of the first, and behind it of the second: which lines are levels */
#define CASCADE 2 /* line of the first */
#define SPURIOUS 7 /* what a PIC answers that has nothing to tell */
#define ALL_MASKED 0xff
#define MASTER_LEVELS 0xf8 /* lines that ELCR can make levels: not the clock, the keyboard, the cascade ... */
#define SLAVE_LEVELS 0xde /* ... the real-time clock and the coprocessor */

#define ICW1 0x10 /* bits of the command port: the first word of the initialization */
#define ICW1_ICW4 0x01
#define OCW3 0x08
#define OCW3_READ 0x02 /* by OCW3_READ_ISR: of what the next reads are */
#define OCW3_READ_ISR 0x01
#define OCW3_POLL 0x04
#define OCW2_ROTATE 0x80
#define OCW2_LINE 0x40 /* of the line in the low bits, else of the one most urgently in service */
#define OCW2_END 0x20
#define ICW4_AUTO_END 0x02
#define ICW4_NESTED 0x10
#define POLLED 0x80 /* an answer to a poll: there is an interrupt */

enum { NO_ICW, ICW2, ICW3, ICW4 };

static unsigned bit(unsigned line)
{
    return 1u << line % PIC_PINS;
}

void pic_reset(pic pics[2])
{
    pics[MASTER] = (pic){.imr = ALL_MASKED, .elcr_writable = MASTER_LEVELS, .cascade = 1 << CASCADE};
    pics[SLAVE] = (pic){.imr = ALL_MASKED, .elcr_writable = SLAVE_LEVELS};
}

/* A state that came from outside: what is built in is as it is here, and what counts lines counts those there are. */
void pic_believe(pic pics[2])
{
    pic fresh[2];
    pic_reset(fresh);
    for (int i = MASTER; i <= SLAVE; i++) {
        pics[i].elcr_writable = fresh[i].elcr_writable;
        pics[i].elcr &= fresh[i].elcr_writable;
        pics[i].cascade = fresh[i].cascade;
        pics[i].base &= ~(PIC_PINS - 1);
        pics[i].first %= PIC_PINS;
        pics[i].expects %= ICW4 + 1;
    }
}

/* How many lines come before the most urgent of `lines`; PIC_PINS if there is none. */
static unsigned rank(const pic *pic, unsigned lines)
{
    unsigned turned = (lines | lines << PIC_PINS) >> pic->first & 0xff;
    return turned ? (unsigned)__builtin_ctz(turned) : PIC_PINS;
}

static unsigned line_of_rank(const pic *pic, unsigned rank)
{
    return (rank + pic->first) % PIC_PINS;
}

/* The line that is to be served next, or NO_INTERRUPT. */
static int request(const pic *pic)
{
    unsigned next = rank(pic, pic->irr & ~pic->imr);
    unsigned nested = pic->nested ? pic->cascade : 0; /* more may come from the slave while it is served */
    return next < rank(pic, pic->isr & ~nested) ? (int)line_of_rank(pic, next) : NO_INTERRUPT;
}

/* What the slave asks for is one more edge on its line of the master. */
static void cascade(pic pics[2])
{
    if (request(&pics[SLAVE]) != NO_INTERRUPT)
        pics[MASTER].irr |= pics[MASTER].cascade;
}

/* An edge is remembered, and a level is what it is. No device is at the line of the cascade. */
void pic_line(pic pics[2], unsigned pin, int level)
{
    pic *pic = &pics[pin / PIC_PINS % 2];
    if (pin == CASCADE)
        return;
    unsigned line = bit(pin), is_level = pic->elcr & line;
    if (level && (is_level || !(pic->high & line)))
        pic->irr |= line;
    if (!level && is_level)
        pic->irr &= ~line;
    pic->high = level ? pic->high | line : pic->high & ~line;
    cascade(pics);
}

int pic_pending(const pic pics[2])
{
    return request(&pics[MASTER]) != NO_INTERRUPT;
}

static void end(pic *pic, unsigned line, int rotate)
{
    pic->isr &= ~bit(line);
    if (rotate)
        pic->first = (line + 1) % PIC_PINS;
}

/* The CPU asks which line it was. */
static unsigned acknowledge(pic *pic)
{
    int line = request(pic);
    if (line == NO_INTERRUPT)
        return SPURIOUS;
    pic->isr |= bit(line);
    pic->irr &= ~bit(line) | pic->elcr;
    if (pic->auto_end)
        end(pic, (unsigned)line, pic->rotates);
    return (unsigned)line;
}

/* The vector of the interrupt that was pending. A slave that has nothing any more answers with its last line. */
int pic_accept(pic pics[2])
{
    pic *pic = &pics[MASTER];
    unsigned line = acknowledge(pic);
    if (line == CASCADE) {
        pic = &pics[SLAVE];
        line = acknowledge(pic);
    }
    cascade(pics);
    return pic->base + (int)line;
}

/* -- ports -------------------------------------------------------------------------------------------------------------- */

int pic_serves(uint16_t port)
{
    unsigned pair = port & ~1u;
    return pair == PORT_MASTER || pair == PORT_SLAVE || pair == PORT_ELCR;
}

/* Who asks instead of being interrupted: the line is told, and forgotten. */
static uint8_t poll(pic pics[2], pic *pic)
{
    int line = request(pic);
    pic->polled = 0;
    if (line != NO_INTERRUPT) {
        pic->irr &= ~bit(line);
        if (pic == &pics[SLAVE]) {
            pics[MASTER].irr &= ~pics[MASTER].cascade;
            pics[MASTER].isr &= ~pics[MASTER].cascade;
        }
    }
    if (pic == &pics[SLAVE] || line != CASCADE)
        cascade(pics);
    return line == NO_INTERRUPT ? SPURIOUS : POLLED | line;
}

uint8_t pic_read(pic pics[2], uint16_t port)
{
    pic *pic = &pics[(port & ~1) == PORT_SLAVE];
    if ((port & ~1) == PORT_ELCR)
        return pics[port & 1].elcr;
    if (pic->polled)
        return poll(pics, pic);
    if ((port & 1) == MASK)
        return pic->imr;
    return pic->reads_isr ? pic->isr : pic->irr;
}

/* The initialization begins: the mask is open, line 0 comes first, and edges are forgotten. What is in service stays so,
 * but for lines with another edge waiting, as on KVM. */
static void begin(pic *pic, uint8_t value)
{
    pic->isr &= ~pic->irr | pic->elcr;
    pic->irr &= pic->elcr;
    pic->imr = pic->high = pic->first = 0;
    pic->reads_isr = 0;
    pic->has_icw4 = value & ICW1_ICW4;
    if (!pic->has_icw4)
        pic->nested = pic->auto_end = 0;
    pic->expects = ICW2;
}

/* Ends what is in service, or turns the order, or both. */
static void operate(pic *pic, uint8_t value)
{
    unsigned line = value % PIC_PINS, serviced = rank(pic, pic->isr);
    int ends = value & OCW2_END, rotates = value & OCW2_ROTATE;
    if (!(value & OCW2_LINE)) {
        if (!ends)
            pic->rotates = rotates;
        if (!ends || serviced == PIC_PINS)
            return;
        line = line_of_rank(pic, serviced);
    }
    if (ends)
        end(pic, line, rotates);
    else if (rotates)
        pic->first = (line + 1) % PIC_PINS;
}

static void select_read(pic *pic, uint8_t value)
{
    if (value & OCW3_POLL)
        pic->polled = 1;
    if (value & OCW3_READ)
        pic->reads_isr = value & OCW3_READ_ISR;
}

/* The words that follow ICW1. How the two are wired, which ICW3 tells, is known. */
static void go_on(pic *pic, uint8_t value)
{
    if (pic->expects == ICW2)
        pic->base = value & ~(PIC_PINS - 1);
    if (pic->expects == ICW4) {
        pic->nested = value & ICW4_NESTED;
        pic->auto_end = value & ICW4_AUTO_END;
    }
    int last = pic->expects == ICW4 || (pic->expects == ICW3 && !pic->has_icw4);
    pic->expects = last ? NO_ICW : pic->expects + 1;
}

void pic_write(pic pics[2], uint16_t port, uint8_t value)
{
    pic *pic = &pics[(port & ~1) == PORT_SLAVE];
    if ((port & ~1) == PORT_ELCR) {
        pics[port & 1].elcr = value & pics[port & 1].elcr_writable;
    } else if ((port & 1) == MASK && pic->expects) {
        go_on(pic, value);
    } else if ((port & 1) == MASK) {
        pic->imr = value;
        cascade(pics);
    } else if (value & ICW1) {
        begin(pic, value);
    } else if (value & OCW3) {
        select_read(pic, value);
    } else {
        operate(pic, value);
        cascade(pics);
    }
}
