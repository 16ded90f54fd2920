/* How does a device take chains out of a split ring, and give them back? */
#include "queue.h"
#include "dirty.h"

typedef struct {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next;
} descriptor;

/* avail: u16 flags, u16 idx, u16 ring[num]; used: u16 flags, u16 idx, {u32 id, u32 len} ring[num] */
enum { FLAGS = 0, IDX = RING_IDX, RING = 4 };

static int event_idx(const lk_device *device)
{
    return device->guest_features >> FEATURE_EVENT_IDX & 1;
}

/* With EVENT_IDX each ring ends with an index more: used_event behind avail, avail_event behind used. */
static uint64_t event_bytes(const lk_device *device)
{
    return event_idx(device) ? sizeof(uint16_t) : 0;
}

static const uint16_t *used_event(const uint8_t *avail, const lk_vq *vq)
{
    return (const uint16_t *)(avail + RING) + vq->num;
}

static uint16_t *avail_event(uint8_t *used, const lk_vq *vq)
{
    return (uint16_t *)(used + RING + (size_t)USED_ELEMENT_BYTES * vq->num);
}

static void *ring_part(lk_device *device, lk_vq *vq, uint64_t gpa, uint64_t bytes)
{
    void *host = lk_memory_at(&device->machine->memory, gpa, bytes);
    if (!host)
        device_break(device, vq, BROKEN_RING_OUTSIDE, gpa);
    return host;
}

static uint8_t *avail_ring(lk_device *device, lk_vq *vq)
{
    return ring_part(device, vq, vq->avail, RING + sizeof(uint16_t) * vq->num + event_bytes(device));
}

static uint8_t *used_ring(lk_device *device, lk_vq *vq)
{
    return ring_part(device, vq, vq->used, RING + (uint64_t)USED_ELEMENT_BYTES * vq->num + event_bytes(device));
}

/* Adds one descriptor to the chain. The copy was taken once, so the guest cannot change it between check and use. */
static int chain_add(lk_device *device, lk_vq *vq, const descriptor *desc)
{
    struct lk_chain *chain = device->chain;
    int writable = desc->flags & DESC_WRITE;
    void *host = lk_memory_at(&device->machine->memory, desc->addr, desc->len);
    int reason = 0;
    if (!desc->len)
        reason = BROKEN_EMPTY_BUFFER;
    else if (!host)
        reason = BROKEN_BUFFER_OUTSIDE;
    else if (!writable && chain->in_count)
        reason = BROKEN_ORDER;
    if (reason) {
        device_break(device, vq, reason, desc->addr);
        return -1;
    }
    struct iovec part = {.iov_base = host, .iov_len = desc->len};
    if (writable) {
        chain->writable[chain->in_count] = part;
        chain->in[chain->in_count++] = part;
        chain->in_bytes += desc->len;
    } else {
        chain->out[chain->out_count++] = part;
        chain->out_bytes += desc->len;
    }
    return 0;
}

/* Walks a table of `size` descriptors from `at`; an indirect table is entered once, and only as the last of a chain. */
static int chain_walk(lk_device *device, lk_vq *vq, uint64_t table_gpa, uint32_t size, uint16_t at, int inside)
{
    const uint8_t *table = ring_part(device, vq, table_gpa, (uint64_t)DESC_BYTES * size);
    if (!table)
        return -1;
    for (uint32_t seen = 0; seen < size; seen++) {
        descriptor desc;
        if (at >= size) {
            device_break(device, vq, BROKEN_NEXT, at);
            return -1;
        }
        memcpy(&desc, table + (size_t)DESC_BYTES * at, sizeof desc);
        if (desc.flags & DESC_INDIRECT) {
            uint32_t entries = desc.len / DESC_BYTES;
            int offered = device->guest_features >> FEATURE_INDIRECT_DESC & 1;
            if (inside || !offered || desc.len % DESC_BYTES || !entries || entries > QUEUE_SIZE_MAX ||
                (desc.flags & DESC_NEXT)) {
                device_break(device, vq, BROKEN_INDIRECT, desc.len);
                return -1;
            }
            return chain_walk(device, vq, desc.addr, entries, 0, 1);
        }
        if (device->chain->out_count + device->chain->in_count >= QUEUE_SIZE_MAX)
            break;
        if (chain_add(device, vq, &desc))
            return -1;
        if (!(desc.flags & DESC_NEXT))
            return 0;
        at = desc.next;
    }
    device_break(device, vq, BROKEN_LOOP, at);
    return -1;
}

static void write_wish(lk_device *device, uint16_t *where, uint16_t wish)
{
    store_relaxed(where, wish);
    dirtied(device->machine, where, sizeof *where);
}

/* The next entry of the avail ring is worth a kick. */
static void ask_for_kicks(lk_device *device, const lk_vq *vq, uint8_t *used)
{
    if (event_idx(device))
        write_wish(device, avail_event(used, vq), vq->last_avail);
    else if (device->suppress)
        write_wish(device, (uint16_t *)(used + FLAGS), 0);
}

/* The device is at work and will come to the next entry by itself. With EVENT_IDX nothing has to be written for that:
 * avail_event stays behind, and the driver kicks when it passes it, not after. */
static void ask_for_none(lk_device *device, uint8_t *used)
{
    uint16_t *flags = (uint16_t *)(used + FLAGS);
    if (!event_idx(device) && load_relaxed(flags) != USED_NO_NOTIFY) /* the driver reads this line: write it seldom */
        write_wish(device, flags, USED_NO_NOTIFY);
}

/* Entries of the avail ring not taken yet; `idx` is avail.idx. A ring found empty asks for a kick and is looked at once
 * more: what the driver published before it could see the asking comes without a kick. */
static uint16_t entries_waiting(lk_device *device, const lk_vq *vq, const uint8_t *avail, uint8_t *used, uint16_t *idx)
{
    const uint16_t *at = (const uint16_t *)(avail + IDX);
    *idx = load_acquire(at);
    if (*idx == vq->last_avail && (device->suppress || event_idx(device))) {
        if (__builtin_expect(load_relaxed(&device->machine->guarded), 0))
            lk_feed_emit(device->machine->feed, EV_EMPTY, vq->index, vq->last_avail, 0, 0, 0, 0);
        ask_for_kicks(device, vq, used);
        full_barrier();
        if (!(device->mutations & MUTATE_NO_RECHECK))
            *idx = load_acquire(at);
    }
    return (uint16_t)(*idx - vq->last_avail);
}

/* Takes the next chain into device->chain. 1: taken, 0: the ring is empty, -1: the guest broke it. */
int queue_pop(lk_device *device, lk_vq *vq)
{
    const uint8_t *avail = avail_ring(device, vq);
    uint8_t *used = avail ? used_ring(device, vq) : NULL;
    if (!used) /* a request that could not be answered is not begun */
        return -1;
    uint16_t idx, waiting = entries_waiting(device, vq, avail, used, &idx);
    if (!waiting)
        return 0;
    if (waiting > vq->num) {
        device_break(device, vq, BROKEN_AVAIL_JUMPED, idx);
        return -1;
    }
    uint16_t head = load_relaxed((const uint16_t *)(avail + RING) + vq->last_avail % vq->num);
    if (head >= vq->num) {
        device_break(device, vq, BROKEN_HEAD, head);
        return -1;
    }
    struct lk_chain *chain = device->chain;
    chain->head = head;
    chain->out_count = chain->in_count = 0;
    chain->out_bytes = chain->in_bytes = 0;
    vq->last_avail++;
    if (device->suppress)
        ask_for_none(device, used);
    else if (event_idx(device))
        ask_for_kicks(device, vq, used);
    if (chain_walk(device, vq, vq->desc, vq->num, head, 0))
        return -1;
    vq->inuse++;
    return 1;
}

/* Is there a chain to pop? A broken device, or one without this ring, has none. Who finds none may wait for a kick. */
int queue_has_next(lk_device *device, lk_vq *vq)
{
    const uint8_t *avail = device->broken || !vq->desc ? NULL : avail_ring(device, vq);
    uint8_t *used = avail ? used_ring(device, vq) : NULL;
    uint16_t idx;
    if (!used)
        return 0;
    full_barrier(); /* a wish to be kicked must be visible before this look, or who waits for a kick waits for ever */
    return entries_waiting(device, vq, avail, used, &idx) != 0;
}

/* The chain that was popped last stays where it was: it will be popped again. */
void queue_unpop(lk_vq *vq)
{
    vq->last_avail--;
    vq->inuse--;
}

/* Gives a chain back: the used entry first, then used.idx, so that the guest never sees an entry half written. */
void queue_push(lk_device *device, lk_vq *vq, uint16_t head, uint32_t written)
{
    uint8_t *used = used_ring(device, vq);
    if (!used)
        return;
    uint32_t *element = (uint32_t *)(used + RING) + 2 * (vq->used_idx % vq->num);
    store_relaxed(element, head);
    store_relaxed(element + 1, written);
    vq->inuse--;
    vq->used_idx++;
    store_release((uint16_t *)(used + IDX), vq->used_idx);
    dirtied(device->machine, used + IDX, sizeof vq->used_idx);
    dirtied(device->machine, element, USED_ELEMENT_BYTES);
    if ((uint16_t)(vq->used_idx - vq->decided_at) > INT16_MAX)
        vq->decided = 0; /* half way round since the last decision: later, before and after could not be told apart */
}

/* The chain that was popped last, with whatever the device wrote into it: into no more than its writable parts. */
void queue_push_chain(lk_device *device, lk_vq *vq, uint32_t written)
{
    const struct lk_chain *chain = device->chain;
    for (uint32_t i = 0; i < chain->in_count; i++)
        dirtied(device->machine, chain->writable[i].iov_base, chain->writable[i].iov_len);
    queue_push(device, vq, chain->head, written);
}

/* 26 of the museum: the driver's wish is read while used.idx is still on its way, as a CPU without a barrier may do. */
void queue_look_early(lk_device *device, lk_vq *vq)
{
    const uint8_t *avail = avail_ring(device, vq);
    if (avail)
        device->early_wish = load_relaxed((const uint16_t *)(avail + FLAGS));
}

/* Does the driver want to hear of what was given back? used.idx is visible by now. */
static int interrupt_wanted(lk_device *device, lk_vq *vq, const uint8_t *avail)
{
    int emptied = !vq->inuse && load_relaxed((const uint16_t *)(avail + IDX)) == vq->last_avail;
    if (emptied && (device->guest_features >> FEATURE_NOTIFY_ON_EMPTY & 1))
        return 1;
    if (device->mutations & MUTATE_LOOKS_EARLY)
        return !(device->early_wish & AVAIL_NO_INTERRUPT);
    if (!event_idx(device))
        return !(load_relaxed((const uint16_t *)(avail + FLAGS)) & AVAIL_NO_INTERRUPT);
    int first = !vq->decided;
    uint16_t before = vq->decided_at, event = load_relaxed(used_event(avail, vq));
    vq->decided = 1;
    vq->decided_at = vq->used_idx;
    return first || (uint16_t)(event - before) < (uint16_t)(vq->used_idx - before);
}

/* Under the big lock. */
void queue_raise(lk_device *device, lk_vq *vq)
{
    vq->interrupts++;
    int way = device_interrupt(device, ISR_QUEUE, vq->vector);
    lk_feed_emit(device->machine->feed, EV_INTERRUPT, vq->index, vq->vector, (uint64_t)way, 0, 0, 0);
}

/* Interrupts the guest unless it asked not to be: by avail.flags, or with EVENT_IDX by naming in used_event the entry
 * that is worth an interrupt. With NOTIFY_ON_EMPTY an emptied ring interrupts all the same. */
void queue_interrupt(lk_device *device, lk_vq *vq)
{
    const uint8_t *avail = avail_ring(device, vq);
    if (!avail)
        return;
    full_barrier(); /* used.idx must be visible before the driver's wish is read, or an interrupt is lost */
    if (!interrupt_wanted(device, vq, avail))
        return;
    if (device->front)
        __atomic_store_n(&vq->irq_wanted, 1, __ATOMIC_RELEASE); /* a backend's: its thread raises it when it may */
    else
        queue_raise(device, vq);
}
