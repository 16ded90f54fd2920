/* How does a request get into the ring, and its answer out of it? */
#include "ring.h"
#include "x86.h"

#define PER_SLOT 3

typedef struct {
    uint32_t type, ioprio;
    uint64_t sector;
} request_header;

static uint64_t slot_request(uint32_t slot)
{
    return GPA_REQUESTS + (uint64_t)slot * REQUEST_STRIDE;
}

/* The legacy layout: desc, avail, then used on the next page. Only what is read before it is written must be zero. */
void ring_setup(ring *r, uint16_t index, uint16_t num, bool event_idx)
{
    uint64_t base = GPA_RINGS + (uint64_t)index * RING_STRIDE;
    uint64_t avail = base + (uint64_t)DESC_BYTES * num, avail_end = avail + 4 + 2u * num + 2;
    uint16_t slots = num / PER_SLOT;
    *r = (ring){
        .index = index,
        .num = num,
        .slots = slots < REQUEST_SLOTS ? slots : REQUEST_SLOTS,
        .event_idx = event_idx,
        .desc = (descriptor *)base,
        .avail = (avail_ring *)avail,
        .used = (used_ring *)((avail_end + RING_ALIGN - 1) & ~(uint64_t)(RING_ALIGN - 1)),
    };
    r->used_event = &r->avail->ring[num];
    r->avail_event = (volatile uint16_t *)&r->used->ring[num];
    r->avail->flags = r->avail->idx = *r->used_event = 0;
    r->used->flags = r->used->idx = *r->avail_event = 0;
}

void ring_quiet(ring *r)
{
    r->avail->flags = AVAIL_NO_INTERRUPT;
}

static bool device_writes(uint32_t type)
{
    return type != BLK_T_OUT;
}

/* The shape of a slot's chain; it stays for as many requests of that shape as one likes. */
void ring_describe(ring *r, uint32_t slot, uint32_t type, uint32_t bytes)
{
    uint16_t head = (uint16_t)(slot * PER_SLOT), status = head + 2;
    uint64_t request = slot_request(slot);
    if (type == BLK_T_FLUSH)
        bytes = 0; /* it carries no data */
    ((request_header *)request)->type = type;
    ((request_header *)request)->ioprio = 0;
    r->desc[head] = (descriptor){request, BLK_HEADER_BYTES, DESC_NEXT, bytes ? head + 1 : status};
    r->desc[head + 1] =
        (descriptor){slot_buffer(slot), bytes, DESC_NEXT | (device_writes(type) ? DESC_WRITE : 0), status};
    r->desc[status] = (descriptor){request + REQUEST_STATUS, 1, DESC_WRITE, 0};
}

/* Buffers without header and status: what the device reads, then what it writes; of 0 bytes there is none. */
void ring_describe_buffers(ring *r, uint32_t slot, uint32_t out_bytes, uint32_t in_bytes)
{
    uint16_t head = (uint16_t)(slot * PER_SLOT);
    uint64_t buffer = slot_buffer(slot);
    descriptor out = {buffer, out_bytes, in_bytes ? DESC_NEXT : 0, in_bytes ? head + 1 : 0};
    descriptor in = {buffer + out_bytes, in_bytes, DESC_WRITE, 0};
    r->desc[head] = out_bytes ? out : in;
    r->desc[head + 1] = in;
}

/* The head stays where it is and leads to the table, in which `next` counts from the table's start. */
void ring_indirect(ring *r, uint32_t slot)
{
    uint16_t head = (uint16_t)(slot * PER_SLOT);
    descriptor *table = (descriptor *)(GPA_INDIRECT + (uint64_t)slot * INDIRECT_STRIDE);
    _Static_assert(PER_SLOT * sizeof *table <= INDIRECT_STRIDE, "abi.h");
    for (uint16_t i = 0; i < PER_SLOT; i++) {
        table[i] = r->desc[head + i];
        if (table[i].flags & DESC_NEXT)
            table[i].next -= head;
    }
    r->desc[head] = (descriptor){(uint64_t)table, PER_SLOT * sizeof *table, DESC_INDIRECT, 0};
}

/* Puts the slot into the next avail entry. The device cannot see it before ring_publish. */
void ring_add(ring *r, uint32_t slot, uint64_t sector)
{
    uint64_t request = slot_request(slot);
    ((request_header *)request)->sector = sector;
    store8(request + REQUEST_STATUS, 0xff); /* no status a device would write */
    r->avail->ring[r->added++ % r->num] = (uint16_t)(slot * PER_SLOT);
    r->in_flight |= UINT64_C(1) << slot;
}

bool ring_has_barrier = true;

static void store_index(ring *r)
{
    write_barrier(); /* descriptors and entries before the index that covers them */
    r->avail->idx = r->added;
    if (ring_has_barrier)
        full_barrier(); /* the index before the look at what the device wants, or a kick is lost */
}

/* Does the device want a kick for what was added since? */
static bool look(const ring *r)
{
    if (r->event_idx)
        return (uint16_t)(r->added - *r->avail_event - 1) < (uint16_t)(r->added - r->published);
    return !(r->used->flags & USED_NO_NOTIFY);
}

/* Moves avail.idx past everything added. True if the device wants a kick. */
bool ring_publish(ring *r)
{
    r->published = r->avail->idx;
    store_index(r);
    return look(r);
}

/* Without the barrier a CPU may let the look pass the store; here it always does, for whoever wants to see what follows. */
void ring_publish_begin(ring *r)
{
    r->published = r->avail->idx;
    if (ring_has_barrier)
        store_index(r);
    else
        r->wants_kick = look(r);
}

bool ring_publish_end(ring *r)
{
    if (ring_has_barrier)
        r->wants_kick = look(r);
    else
        store_index(r);
    return r->wants_kick;
}

/* Takes one used entry. A head that is no slot's, or not in flight, is the device's fault. */
enum reaped ring_reap(ring *r, completion *done)
{
    if (!ring_has_used(r))
        return REAPED_NONE;
    read_barrier(); /* the index before the entry it covers */
    const used_element *element = &r->used->ring[r->last_used % r->num];
    uint32_t head = element->id, slot = head / PER_SLOT;
    if (head % PER_SLOT || slot >= r->slots || !(r->in_flight >> slot & 1))
        return REAPED_BAD;
    *done = (completion){head, element->bytes, slot, load8(slot_request(slot) + REQUEST_STATUS)};
    r->in_flight &= ~(UINT64_C(1) << slot);
    r->last_used++;
    if (r->event_idx) {
        *r->used_event = r->last_used;
        full_barrier(); /* what we wait for before the next look at used.idx, or an interrupt is lost */
    }
    return REAPED_ONE;
}
