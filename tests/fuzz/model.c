/* What may a run of a queue do? Told from the guest's memory and the ring's description alone, before the run:
 * which chains are served, whether the device breaks, and every byte it may write. */
#include "fuzz.h"

enum { AVAIL_IDX = 2, AVAIL_RING = 4, USED_RING = 4, EVENT_BYTES = 2 };

/* One chain on its way: the bytes so far. */
typedef struct {
    unsigned parts;
    uint64_t out_bytes, in_bytes, last_byte;
} chain;

static bool in_ram(uint64_t gpa, uint64_t bytes)
{
    return gpa <= RAM_BYTES && bytes <= RAM_BYTES - gpa;
}

/* With more spans than the list holds nothing is certain any more. */
static void note(span *spans, unsigned *count, uint64_t gpa, uint64_t bytes)
{
    if (*count < SPANS_MAX)
        spans[(*count)++] = (span){gpa, bytes};
}

static bool add_part(forecast *f, chain *c, const vring_desc *desc)
{
    bool writable = desc->flags & DESC_WRITE;
    if (c->parts++ == QUEUE_SIZE_MAX || !desc->bytes || !in_ram(desc->gpa, desc->bytes))
        return false;
    if (!writable) {
        c->out_bytes += desc->bytes;
        return !c->in_bytes; /* what the device reads stands before what it writes */
    }
    c->in_bytes += desc->bytes;
    c->last_byte = desc->gpa + desc->bytes - 1;
    note(f->writes, &f->write_count, desc->gpa, desc->bytes);
    return true;
}

static bool good_table(const vring_desc *desc)
{
    uint32_t entries = desc->bytes / DESC_BYTES;
    return desc->bytes % DESC_BYTES == 0 && entries && entries <= QUEUE_SIZE_MAX && !(desc->flags & DESC_NEXT) &&
           (w.device->guest_features >> FEATURE_INDIRECT_DESC & 1);
}

/* Follows a chain through its table; an indirect table is the last thing of a chain. */
static bool follow(forecast *f, chain *c, uint64_t table, uint32_t size, uint32_t at, bool indirect)
{
    if (!in_ram(table, (uint64_t)size * DESC_BYTES))
        return false;
    note(f->reads, &f->read_count, table, (uint64_t)size * DESC_BYTES);
    for (uint32_t hops = 0; hops < size && at < size; hops++) {
        vring_desc desc;
        load(table + (uint64_t)at * DESC_BYTES, &desc, sizeof desc);
        if (desc.flags & DESC_INDIRECT)
            return !indirect && good_table(&desc) && follow(f, c, desc.gpa, desc.bytes / DESC_BYTES, 0, true);
        if (!add_part(f, c, &desc))
            return false;
        if (!(desc.flags & DESC_NEXT))
            return true;
        at = desc.next;
    }
    return false; /* a link out of the table, or a loop */
}

static bool overlap(const span *a, const span *b)
{
    return a->gpa < b->gpa + b->bytes && b->gpa < a->gpa + a->bytes;
}

/* The used ring is the first of the writes; no buffer may lie over it either. */
static bool apart(const forecast *f)
{
    if (f->write_count == SPANS_MAX || f->read_count == SPANS_MAX)
        return false;
    for (unsigned i = 0; i < f->write_count; i++) {
        for (unsigned k = 0; k < f->read_count; k++)
            if (overlap(&f->writes[i], &f->reads[k]))
                return false;
        if (i && overlap(&f->writes[i], &f->writes[0]))
            return false;
    }
    return true;
}

/* Chain by chain, up to the first bad one. A device that is being stopped serves one and leaves the rest. */
static void foresee_chains(const lk_vq *vq, uint64_t avail, uint16_t waiting, forecast *f)
{
    while (!f->breaks && f->served < waiting) {
        uint16_t head;
        chain c = {0};
        load(avail + AVAIL_RING + 2u * ((uint16_t)(vq->last_avail + f->served) % vq->num), &head, sizeof head);
        f->breaks = head >= vq->num || !follow(f, &c, (uint64_t)vq->pfn << QUEUE_PFN_SHIFT, vq->num, head, false) ||
                    (w.kind->takes && !w.kind->takes(c.out_bytes, c.in_bytes));
        if (f->breaks)
            return;
        f->last_byte = c.last_byte;
        f->heads[f->served++] = head;
        if (w.device->stopping && w.kind->manners == SERVES_ALL)
            return;
    }
}

void foresee(unsigned queue, forecast *f)
{
    f->runs = f->breaks = false;
    f->certain = true;
    f->served = f->write_count = f->read_count = 0;
    if (queue >= QUEUE_MAX || !w.device->vq[queue].pfn || w.device->broken)
        return;
    f->runs = true;
    if (w.kind->manners == LEAVES_ALONE)
        return;
    const lk_vq *vq = &w.device->vq[queue];
    uint64_t desc = (uint64_t)vq->pfn << QUEUE_PFN_SHIFT, avail = desc + (uint64_t)DESC_BYTES * vq->num;
    uint64_t avail_bytes = AVAIL_RING + 2u * vq->num, used_bytes = USED_RING + (uint64_t)USED_ELEMENT_BYTES * vq->num;
    uint64_t used = (avail + avail_bytes + EVENT_BYTES + RING_ALIGN - 1) / RING_ALIGN * RING_ALIGN;
    uint16_t idx;
    if (!in_ram(avail, avail_bytes) || !in_ram(used, used_bytes)) {
        f->breaks = true;
        return;
    }
    if (w.device->guest_features >> FEATURE_EVENT_IDX & 1)
        used_bytes += EVENT_BYTES;
    note(f->reads, &f->read_count, avail, avail_bytes);
    note(f->writes, &f->write_count, used, used_bytes);
    load(avail + AVAIL_IDX, &idx, sizeof idx);
    uint16_t waiting = (uint16_t)(idx - vq->last_avail);
    if (waiting > vq->num)
        f->breaks = true;
    else
        foresee_chains(vq, avail, waiting, f);
    f->certain = apart(f);
}
