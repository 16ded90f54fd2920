/* The split ring from the driver's side.
 *
 * A request slot s owns descriptors 3s (header), 3s+1 (data), 3s+2 (status); so the head of a chain names its slot and
 * nothing has to be allocated. A chain of plain buffers, for a device that is no disk, takes the first or the first two
 * of the three; the slot's header and status byte are written all the same and no device sees them. */
#ifndef LABKIT_RING_H
#define LABKIT_RING_H

#include <stdbool.h>
#include <stdint.h>

#include "abi.h"

typedef struct {
    uint64_t address;
    uint32_t bytes;
    uint16_t flags, next;
} descriptor;

typedef struct {            /* written by the driver */
    volatile uint16_t flags; /* AVAIL_NO_INTERRUPT */
    volatile uint16_t idx;   /* heads published so far, modulo 2^16 */
    volatile uint16_t ring[];
} avail_ring;

typedef struct {
    volatile uint32_t id, bytes;
} used_element;

typedef struct {            /* written by the device */
    volatile uint16_t flags; /* USED_NO_NOTIFY */
    volatile uint16_t idx;   /* chains given back so far, modulo 2^16 */
    used_element ring[];
} used_ring;

typedef struct {
    uint16_t index, num, slots; /* num 0: no such queue */
    uint16_t added;             /* avail entries filled; idx follows at publish */
    uint16_t last_used;         /* used entries reaped */
    bool event_idx;             /* EVENT_IDX accepted: the two words below count, the two flags do not */
    uint16_t published;         /* avail.idx before the last publish */
    bool wants_kick;            /* the device, when it was looked at for that */
    uint64_t in_flight;         /* a bit for each slot: added, not reaped */
    descriptor *desc;
    avail_ring *avail;
    used_ring *used;
    volatile uint16_t *used_event;  /* written by the driver, after avail.ring: interrupt when used.idx passes it */
    volatile uint16_t *avail_event; /* written by the device, after used.ring: kick when avail.idx passes it */
} ring;

typedef struct {
    uint32_t head, bytes, slot;
    uint8_t status;
} completion;

enum reaped { REAPED_NONE, REAPED_ONE, REAPED_BAD };

void ring_setup(ring *r, uint16_t index, uint16_t num, bool event_idx);
void ring_quiet(ring *r); /* no interrupts, please: whoever drives it polls */
void ring_describe(ring *r, uint32_t slot, uint32_t type, uint32_t bytes);
void ring_describe_buffers(ring *r, uint32_t slot, uint32_t out_bytes, uint32_t in_bytes); /* not both 0 */
void ring_indirect(ring *r, uint32_t slot); /* what was described, from now on in a table of its own */
void ring_add(ring *r, uint32_t slot, uint64_t sector);
bool ring_publish(ring *r);
void ring_publish_begin(ring *r); /* the same in two steps, with a moment between them */
bool ring_publish_end(ring *r);
extern bool ring_has_barrier; /* between store and look. False: a driver that is wrong on purpose */
enum reaped ring_reap(ring *r, completion *done);

static inline bool ring_has_used(const ring *r)
{
    return r->used->idx != r->last_used;
}
static inline uint64_t slot_buffer(uint32_t slot)
{
    return GPA_BUFFERS + (uint64_t)slot * BUFFER_STRIDE;
}

#endif
