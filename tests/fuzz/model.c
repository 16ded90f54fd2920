/* What may a run of a queue do? Told from the guest's memory and the ring's description alone, before the run: which
 * chains are served, whether the device breaks, what it asks of the driver, and every byte it may write. */
#include "fuzz.h"

enum { AVAIL_IDX = 2, AVAIL_RING = 4, USED_RING = 4, EVENT_BYTES = 2 };

static bool in_ram(uint64_t gpa, uint64_t bytes)
{
    return gpa <= RAM_BYTES && bytes <= RAM_BYTES - gpa;
}

static bool event_idx(void)
{
    return w.device->guest_features >> FEATURE_EVENT_IDX & 1;
}

/* -- what is noted ---------------------------------------------------------------------------------------------------- */

/* The device will write there: `content`, or what nobody foresees. With more spans than the list holds nothing is
 * certain any more. */
void foresee_write(forecast *f, uint64_t gpa, uint64_t bytes, const uint8_t *content)
{
    if (f->write_count == SPANS_MAX || (content && bytes > CONTENT_MAX - f->content_bytes)) {
        f->write_count = SPANS_MAX;
        return;
    }
    span *noted = &f->writes[f->write_count++];
    *noted = (span){gpa, bytes, NULL};
    if (content) {
        noted->content = memcpy(f->content + f->content_bytes, content, bytes);
        f->content_bytes += bytes;
    }
}

/* What the device does there depends on what it reads there. */
void foresee_read(forecast *f, uint64_t gpa, uint64_t bytes)
{
    if (f->read_count < SPANS_MAX)
        f->reads[f->read_count++] = (span){gpa, bytes, NULL};
}

/* The first of what a chain lets the device write. */
void foresee_scatter(forecast *f, const chain *c, const uint8_t *content, uint64_t bytes)
{
    for (unsigned i = 0; i < c->in_count && bytes; i++) {
        uint64_t part = c->in[i].bytes < bytes ? c->in[i].bytes : bytes;
        foresee_write(f, c->in[i].gpa, part, content);
        content += part;
        bytes -= part;
    }
}

static int breaks(forecast *f)
{
    f->breaks = true;
    return -1;
}

/* -- one chain -------------------------------------------------------------------------------------------------------- */

static bool add_part(chain *c, const vring_desc *desc)
{
    bool writable = desc->flags & DESC_WRITE;
    if (c->out_count + c->in_count == QUEUE_SIZE_MAX || !desc->bytes || !in_ram(desc->gpa, desc->bytes))
        return false;
    if (writable) {
        c->in[c->in_count++] = (span){desc->gpa, desc->bytes, NULL};
        c->in_bytes += desc->bytes;
        return true;
    }
    c->out[c->out_count++] = (span){desc->gpa, desc->bytes, NULL};
    c->out_bytes += desc->bytes;
    return !c->in_bytes; /* what the device reads stands before what it writes */
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
    foresee_read(f, table, (uint64_t)size * DESC_BYTES);
    for (uint32_t hops = 0; hops < size && at < size; hops++) {
        vring_desc desc;
        load(table + (uint64_t)at * DESC_BYTES, &desc, sizeof desc);
        if (desc.flags & DESC_INDIRECT)
            return !indirect && good_table(&desc) && follow(f, c, desc.gpa, desc.bytes / DESC_BYTES, 0, true);
        if (!add_part(c, &desc))
            return false;
        if (!(desc.flags & DESC_NEXT))
            return true;
        at = desc.next;
    }
    return false; /* a link out of the table, or a loop */
}

/* -- a ring ----------------------------------------------------------------------------------------------------------- */

ring_view view_of(unsigned queue)
{
    const lk_vq *vq = &w.device->vq[queue];
    ring_view v = {.vq = vq, .avail = ((uint64_t)vq->pfn << QUEUE_PFN_SHIFT) + (uint64_t)DESC_BYTES * vq->num};
    uint64_t end = v.avail + AVAIL_RING + 2u * vq->num + EVENT_BYTES;
    v.used = (end + RING_ALIGN - 1) / RING_ALIGN * RING_ALIGN;
    return v;
}

/* Both halves of the ring must be in RAM before anything of it is looked at. */
static bool whole(forecast *f, ring_view *v)
{
    uint64_t event = event_idx() ? EVENT_BYTES : 0, avail_bytes = AVAIL_RING + 2u * v->vq->num + event;
    uint64_t used_bytes = USED_RING + (uint64_t)USED_ELEMENT_BYTES * v->vq->num + event;
    if (!in_ram(v->avail, avail_bytes) || !in_ram(v->used, used_bytes))
        return false;
    if (!v->looked) {
        foresee_read(f, v->avail, avail_bytes);
        f->used[f->used_count++] = (span){v->used, used_bytes, NULL};
    }
    v->looked = true;
    return true;
}

/* The device tells the driver whether it wants kicks: by avail_event or by used.flags, the last word counts. */
static void ask(ring_view *v, uint64_t offset, uint16_t value)
{
    v->asks = true;
    v->asks_at = v->used + offset;
    v->asks_for = value;
}

static void ask_for_next(ring_view *v)
{
    if (event_idx())
        ask(v, USED_RING + (uint64_t)USED_ELEMENT_BYTES * v->vq->num, (uint16_t)(v->vq->last_avail + v->taken));
    else if (w.device->suppress)
        ask(v, 0, 0);
}

static uint16_t waiting(ring_view *v)
{
    uint16_t idx;
    load(v->avail + AVAIL_IDX, &idx, sizeof idx);
    uint16_t count = (uint16_t)(idx - v->vq->last_avail - v->taken);
    if (!count)
        ask_for_next(v); /* an empty ring asks, whether anything was taken or not */
    return count;
}

/* 1: into `c`, 0: the ring is empty, -1: the device breaks. */
int foresee_pop(forecast *f, ring_view *v, chain *c)
{
    uint16_t count, head;
    if (!whole(f, v))
        return breaks(f);
    if (!(count = waiting(v)))
        return 0;
    load(v->avail + AVAIL_RING + 2u * ((uint16_t)(v->vq->last_avail + v->taken) % v->vq->num), &head, sizeof head);
    if (count > v->vq->num || head >= v->vq->num)
        return breaks(f);
    v->taken++;
    if (!w.device->suppress)
        ask_for_next(v);
    else if (!event_idx())
        ask(v, 0, USED_NO_NOTIFY);
    c->head = head;
    c->out_count = c->in_count = 0;
    c->out_bytes = c->in_bytes = 0;
    return follow(f, c, (uint64_t)v->vq->pfn << QUEUE_PFN_SHIFT, v->vq->num, head, false) ? 1 : breaks(f);
}

/* Is there something to pop? */
bool foresee_next(forecast *f, ring_view *v)
{
    if (w.device->broken || f->breaks || !v->vq->pfn)
        return false;
    if (whole(f, v))
        return waiting(v);
    breaks(f);
    return false;
}

void foresee_push(forecast *f, const chain *c, uint32_t bytes)
{
    f->heads[f->served] = c->head;
    f->bytes[f->served++] = bytes;
}

/* Used entries, used.idx, and the asking: nothing else of a ring is the device's to write. */
void foresee_used(forecast *f, const ring_view *v, bool own)
{
    const lk_vq *vq = v->vq;
    f->asks |= v->asks;
    if (v->asks)
        foresee_write(f, v->asks_at, sizeof v->asks_for, (const uint8_t *)&v->asks_for);
    if (!own || !f->served)
        return;
    uint16_t idx = (uint16_t)(vq->used_idx + f->served);
    for (uint32_t i = 0; i < f->served; i++) {
        uint64_t entry = v->used + USED_RING + (uint64_t)USED_ELEMENT_BYTES * ((uint16_t)(vq->used_idx + i) % vq->num);
        uint32_t element[2] = {f->heads[i], f->bytes[i]};
        foresee_write(f, entry, f->bytes[i] == UNKNOWN_BYTES ? sizeof *element : sizeof element, (uint8_t *)element);
        if (f->bytes[i] == UNKNOWN_BYTES)
            foresee_write(f, entry + sizeof *element, sizeof *element, NULL);
    }
    foresee_write(f, v->used + AVAIL_IDX, sizeof idx, (uint8_t *)&idx);
}

static bool overlap(const span *a, const span *b)
{
    return a->gpa < b->gpa + b->bytes && b->gpa < a->gpa + a->bytes;
}

/* Is nothing that the device writes part of what it goes by? And no buffer may lie over a used ring. `buffers`: so many
 * of the writes are no ring's. */
void foresee_certain(forecast *f, unsigned buffers)
{
    f->certain = f->write_count < SPANS_MAX && f->read_count < SPANS_MAX;
    if (f->used_count > 1 && overlap(&f->used[0], &f->used[1]))
        f->certain = false;
    for (unsigned i = 0; f->certain && i < buffers + f->used_count; i++) {
        const span *written = i < buffers ? &f->writes[i] : &f->used[i - buffers];
        for (unsigned k = 0; k < f->read_count; k++)
            f->certain &= !overlap(written, &f->reads[k]);
        for (unsigned k = 0; i < buffers && k < f->used_count; k++)
            f->certain &= !overlap(written, &f->used[k]);
    }
}

void foresee_nothing(forecast *f)
{
    f->runs = f->breaks = f->forwarded = f->asks = false;
    f->certain = true;
    f->ignored = 0;
    f->served = f->write_count = f->read_count = f->used_count = 0;
    f->content_bytes = 0;
}

/* -- a run ------------------------------------------------------------------------------------------------------------ */

/* 0, or IGNORED_*. A device that may not touch memory sees the kick, after all others that do not count. */
static int why_ignored(unsigned queue)
{
    if (!w.device->vq[queue].pfn)
        return IGNORED_NO_RING;
    return w.device->broken ? IGNORED_BROKEN : 0;
}

/* Chain by chain, up to the first bad one. A device that is being stopped serves one and leaves the rest. */
static void foresee_chains(unsigned queue, ring_view *v, forecast *f)
{
    static chain c;
    while (!w.kind->wants || w.kind->wants(queue)) {
        if (foresee_pop(f, v, &c) <= 0)
            return;
        if (!w.kind->serve(queue, &c, f)) {
            breaks(f);
            return;
        }
        if (w.device->stopping)
            return;
    }
}

static void foresee_run(unsigned queue, forecast *f)
{
    f->runs = true;
    if (!w.kind->serve)
        return;
    ring_view v = view_of(queue), other = {0};
    if (w.kind->begin)
        w.kind->begin();
    foresee_chains(queue, &v, f);
    if (w.kind->after)
        w.kind->after(f, queue, &v, &other);
    unsigned buffers = f->write_count;
    foresee_used(f, &v, true);
    foresee_used(f, &other, false);
    foresee_certain(f, buffers < SPANS_MAX ? buffers : 0);
}

/* `trapped`: by a write of `queue` to QUEUE_NOTIFY. */
void foresee(uint32_t queue, bool trapped, forecast *f)
{
    foresee_nothing(f);
    if (queue >= (trapped ? w.device->queue_indices : QUEUE_MAX))
        f->ignored = IGNORED_INDEX;
    else if (queue >= QUEUE_MAX)
        f->ignored = IGNORED_NO_RING;
    else
        f->ignored = why_ignored(queue);
    if (f->ignored)
        return;
    if (trapped && w.device->forwards_traps && w.device->vq[queue].notifier_fd >= 0)
        f->forwarded = true;
    else if (w.device->disabled)
        f->ignored = IGNORED_DISABLED;
    else
        foresee_run(queue, f);
}
