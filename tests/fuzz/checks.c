/* What holds after every step, and after every run of a queue as the model foresaw it? */
#include "fuzz.h"

static forecast foreseen;

static void sabotage(unsigned queue)
{
    lk_vq *vq = &w.device->vq[queue % QUEUE_MAX];
    if (!run.sabotage || run.at < 50)
        return;
    if (!strcmp(run.sabotage, "overrun"))
        w.machine->memory.host[RAM_BYTES] = 0;
    else if (!strcmp(run.sabotage, "stray"))
        w.guest[TABLES_GPA]++;
    else if (!strcmp(run.sabotage, "used-idx"))
        vq->used_idx++;
    else if (!strcmp(run.sabotage, "inuse"))
        vq->inuse++;
    else if (!strcmp(run.sabotage, "lost-kick"))
        vq->trapped--;
    else if (!strcmp(run.sabotage, "interrupt"))
        vq->interrupts++;
    else if (!strcmp(run.sabotage, "mended"))
        w.device->broken = 0;
    else if (!strcmp(run.sabotage, "pending"))
        w.device->vectors[0].pending = 1;
    else
        fail("no such sabotage: %s", run.sabotage);
}

/* A vector was raised: did the message go, where nothing holds it back? */
void message_sent(unsigned vector, int way)
{
    bool held = vector < VECTORS && (w.device->vectors[vector].masked || w.device->msix_masked);
    expect(way != IRQ_WAY_MSIX || !held, "vector %u delivered a message that was masked", vector);
    expect(way != IRQ_WAY_MASKED || held, "vector %u kept a message back that was not masked", vector);
    w.messages += way == IRQ_WAY_MSIX;
}

/* The events say the same as the counters: messages sent, breaks told once. */
void read_events(void)
{
    lk_event events[256];
    uint64_t lost;
    uint32_t count;
    while ((count = lk_feed_read(w.machine->feed, &w.feed_at, events, 256, &lost)) > 0 || lost) {
        expect(!lost, "the feed was overrun in one step");
        for (uint32_t i = 0; i < count; i++) {
            if (events[i].kind == EV_INTERRUPT)
                message_sent((unsigned)events[i].a, (int)events[i].b);
            expect(events[i].kind != EV_BROKEN || !w.was_broken, "broken twice");
            w.was_broken |= events[i].kind == EV_BROKEN;
            run.broken += events[i].kind == EV_BROKEN;
        }
    }
}

static void check_vectors(void)
{
    uint64_t sent = 0;
    for (unsigned v = 0; v < VECTORS; v++) {
        uint64_t count = 0;
        const lk_vector *vector = &w.device->vectors[v];
        if (read(vector->fd, &count, sizeof count) == sizeof count)
            sent += count;
        expect(!vector->pending || vector->masked || w.device->msix_masked || !w.device->msix_enabled,
               "vector %u is pending, with nothing that holds it back", v);
    }
    expect(sent == w.messages, "%lu messages sent, %lu told of", sent, w.messages);
    w.messages = 0;
}

static void check_queue(unsigned queue)
{
    const lk_vq *vq = &w.device->vq[queue];
    const driver_queue *driver = &w.queues[queue];
    expect(vq->trapped == driver->trapped, "queue %u: %lu kicks trapped, %lu counted", queue, driver->trapped,
           vq->trapped);
    expect(vq->signalled + driver->unread == driver->signalled,
           "queue %u: %lu kicks signalled, %lu unread, %lu counted", queue, driver->signalled, driver->unread,
           vq->signalled);
    expect(vq->drained <= vq->signalled && vq->synthetic <= driver->synthetic, "queue %u: drained or synthetic", queue);
    uint16_t taken = (uint16_t)(vq->last_avail - vq->used_idx);
    if (!w.device->broken)
        expect(taken == vq->inuse, "queue %u: inuse %u, but %u chains were taken and not given back", queue, vq->inuse,
               taken);
    else
        expect(taken <= vq->inuse + 1, "queue %u: %u chains taken, inuse %u", queue, taken, vq->inuse);
}

void check_all(void)
{
    read_events();
    expect(!w.device->broken == !w.was_broken, "broken is %u, after %s", w.device->broken,
           w.was_broken ? "a break and no reset" : "no break");
    expect(!(w.device->isr & ~(ISR_QUEUE | ISR_CONFIG)), "isr is %#x", w.device->isr);
    expect(!lk_lock_is_mine(w.machine), "the big lock was not given back");
    for (unsigned queue = 0; queue < QUEUE_MAX; queue++)
        check_queue(queue);
    check_vectors();
    if (w.kind->check)
        w.kind->check();
    check_memory(run.doing);
}

/* -- one run of a queue, held against the model ------------------------------------------------------------------------ */

/* One interrupt for a run that served something, unless the driver does not want it; EVENT_IDX has its own tests. */
static void check_interrupt(unsigned queue, const before_run *before, bool served)
{
    const lk_vq *vq = &w.device->vq[queue];
    uint16_t avail[2]; /* flags, idx */
    load(vq->avail, avail, sizeof avail);
    bool emptied = !vq->inuse && avail[1] == vq->last_avail && w.device->guest_features >> FEATURE_NOTIFY_ON_EMPTY & 1;
    bool due = served && (!(avail[0] & AVAIL_NO_INTERRUPT) || emptied);
    if (!(w.device->guest_features >> FEATURE_EVENT_IDX & 1))
        expect(vq->interrupts == before->interrupts + due, "queue %u: %lu interrupts, %u due", queue,
               vq->interrupts - before->interrupts, due);
}

static void check_served(unsigned queue, const before_run *before)
{
    const lk_vq *vq = &w.device->vq[queue];
    uint64_t used = (vq->avail + 6 + 2u * vq->num + RING_ALIGN - 1) / RING_ALIGN * RING_ALIGN;
    uint16_t served = (uint16_t)(vq->used_idx - before->used_idx), idx;
    expect(!w.device->broken == !foreseen.breaks, "queue %u: broken is %u, foreseen %u", queue, w.device->broken,
           foreseen.breaks);
    expect(served == foreseen.served, "queue %u: %u served, %u foreseen", queue, served, foreseen.served);
    for (uint32_t i = 0; i < served; i++) {
        uint32_t id;
        load(used + 4 + 8 * ((uint16_t)(before->used_idx + i) % vq->num), &id, sizeof id);
        expect(id == foreseen.heads[i], "queue %u: used entry %u is %u, not %u", queue, i, id, foreseen.heads[i]);
    }
    load(used + 2, &idx, sizeof idx);
    expect(!served || idx == vq->used_idx, "queue %u: used.idx is %u in memory, %u in the device", queue, idx,
           vq->used_idx);
    check_interrupt(queue, before, served);
    if (served && w.kind->number == DEVICE_BLK)
        expect(w.guest[foreseen.last_byte] <= BLK_S_UNSUPP, "no status in the last request's last byte");
    run.served += served;
    run.wraps += vq->used_idx < before->used_idx;
}

static void check_idx(unsigned queue)
{
    const lk_vq *vq = &w.device->vq[queue];
    uint16_t idx;
    if (w.device->broken || !vq->num)
        return;
    load(vq->avail + 2, &idx, sizeof idx);
    expect((uint16_t)(idx - vq->used_idx) <= vq->num, "queue %u: used.idx %u has passed avail.idx %u", queue,
           vq->used_idx, idx);
}

before_run begin_run(unsigned queue)
{
    const lk_vq *vq = &w.device->vq[queue % QUEUE_MAX];
    foresee(queue, &foreseen);
    return (before_run){vq->used_idx, vq->runs, vq->interrupts};
}

void end_run(unsigned queue, const before_run *before, int ran)
{
    sabotage(queue);
    expect(ran == foreseen.runs, "queue %u: %s, foreseen otherwise", queue, ran ? "run" : "not run");
    if (queue < QUEUE_MAX)
        expect(w.device->vq[queue].runs == before->runs + foreseen.runs, "queue %u: runs were counted wrong", queue);
    run.kicks++;
    run.runs += ran != 0;
    if (ran)
        w.queues[queue].waiting = 0;
    if (!foreseen.certain) {
        accept_all();
        return;
    }
    run.foreseen += ran != 0;
    for (unsigned i = 0; i < foreseen.write_count; i++)
        accept_change(foreseen.writes[i].gpa, foreseen.writes[i].bytes);
    if (foreseen.runs && w.kind->manners == SERVES_ALL)
        check_served(queue, before);
    if (foreseen.runs && w.kind->manners != LEAVES_ALONE)
        check_idx(queue);
}
