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
    else if (!strcmp(run.sabotage, "asks"))
        w.guest[vq->used < RAM_BYTES ? vq->used : 0] ^= USED_NO_NOTIFY;
    else if (!strcmp(run.sabotage, "counted-twice"))
        vq->forwarded_due = 0;
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
            w.kicks_forwarded += events[i].kind == EV_FORWARD;
            if (events[i].kind == EV_KICK_IGNORED) {
                w.kicks_ignored++;
                w.why_ignored = events[i].b;
            }
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

/* Has used.idx passed the entry that the driver named, since the driver was last decided on? Never decided: it has. */
static bool passed_event(const lk_vq *vq, const lk_vq *before)
{
    uint16_t event, served = (uint16_t)(vq->used_idx - before->used_idx);
    uint32_t since = (uint16_t)(before->used_idx - before->decided_at) + (uint32_t)served;
    load(vq->avail + 4 + 2u * vq->num, &event, sizeof event);
    return !before->decided || since > INT16_MAX || (uint16_t)(event - before->decided_at) < since;
}

/* One interrupt for a run that served something, unless the driver does not want it. */
static void check_interrupt(unsigned queue, const lk_vq *before, bool served)
{
    const lk_vq *vq = &w.device->vq[queue];
    uint16_t avail[2]; /* flags, idx */
    load(vq->avail, avail, sizeof avail);
    bool emptied = !vq->inuse && avail[1] == vq->last_avail && w.device->guest_features >> FEATURE_NOTIFY_ON_EMPTY & 1;
    bool wanted =
        w.device->guest_features >> FEATURE_EVENT_IDX & 1 ? passed_event(vq, before) : !(avail[0] & AVAIL_NO_INTERRUPT);
    bool due = served && (wanted || emptied);
    expect(vq->interrupts == before->interrupts + due, "queue %u: %lu interrupts, %u due", queue,
           vq->interrupts - before->interrupts, due);
}

static void check_served(unsigned queue, const forecast *f, const lk_vq *before)
{
    const lk_vq *vq = &w.device->vq[queue];
    uint64_t used = (vq->avail + 6 + 2u * vq->num + RING_ALIGN - 1) / RING_ALIGN * RING_ALIGN;
    uint16_t served = (uint16_t)(vq->used_idx - before->used_idx), idx;
    expect(!w.device->broken == !f->breaks, "queue %u: broken is %u, foreseen %u", queue, w.device->broken, f->breaks);
    expect(served == f->served, "queue %u: %u served, %u foreseen", queue, served, f->served);
    expect(vq->requests - before->requests == served, "queue %u: %lu requests counted, %u served", queue,
           vq->requests - before->requests, served);
    /* Where num does not divide 65536, two entries share a place as the indices wrap. Memory is compared all the same. */
    bool apart = vq->num && 0x10000 % vq->num == 0;
    for (uint32_t i = 0; apart && i < served; i++) {
        uint32_t element[2];
        load(used + 4 + 8 * ((uint16_t)(before->used_idx + i) % vq->num), element, sizeof element);
        expect(element[0] == f->heads[i], "queue %u: used entry %u is %u, not %u", queue, i, element[0], f->heads[i]);
        expect(f->bytes[i] == UNKNOWN_BYTES || element[1] == f->bytes[i],
               "queue %u: used entry %u has length %u, not %u", queue, i, element[1], f->bytes[i]);
    }
    load(used + 2, &idx, sizeof idx);
    expect(!served || idx == vq->used_idx, "queue %u: used.idx is %u in memory, %u in the device", queue, idx,
           vq->used_idx);
    check_interrupt(queue, before, served);
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

before_run now(uint32_t queue)
{
    read_events();
    return (before_run){w.device->vq[queue % QUEUE_MAX], w.kicks_ignored, w.kicks_forwarded};
}

before_run begin_run(uint32_t queue, bool trapped)
{
    foresee(queue, trapped, &foreseen);
    return now(queue);
}

/* What a run did, by whatever it was caused: memory is as foreseen, and so are ring and device. */
void settle(unsigned queue, const forecast *f, const before_run *before)
{
    if (!f->certain)
        accept_all();
    for (unsigned i = 0; f->certain && i < f->write_count; i++) {
        const span *s = &f->writes[i];
        if (s->content)
            must_hold(s->gpa, s->content, s->bytes);
        else
            accept_change(s->gpa, s->bytes);
    }
    if (f->certain)
        check_served(queue, f, &before->vq);
    if (f->certain && f->served)
        check_idx(queue);
    if (w.kind->ran)
        w.kind->ran(queue, f);
}

static void check_kick(uint32_t queue, const before_run *before)
{
    const forecast *f = &foreseen;
    read_events();
    expect(w.kicks_ignored - before->ignored == (f->ignored != 0), "queue %u: %lu kicks ignored, foreseen otherwise",
           queue, w.kicks_ignored - before->ignored);
    expect(!f->ignored || w.why_ignored == f->ignored, "queue %u: ignored because of %lu, foreseen %lu", queue,
           w.why_ignored, f->ignored);
    expect(w.kicks_forwarded - before->forwarded == f->forwarded, "queue %u: %lu kicks forwarded, foreseen %u", queue,
           w.kicks_forwarded - before->forwarded, f->forwarded);
    if (f->forwarded)
        w.queues[queue].forwarded++;
    run.kicks++;
    run.ignored += f->ignored != 0;
    run.forwarded += f->forwarded;
    run.asked += f->asks;
}

void end_run(uint32_t queue, const before_run *before, int ran)
{
    sabotage(queue);
    int said = foreseen.forwarded ? TRAP_FORWARDED : foreseen.runs ? TRAP_RAN : 0;
    expect(ran == said, "queue %u: %s, foreseen otherwise", queue, ran == TRAP_RAN ? "run" : "not run");
    if (queue < QUEUE_MAX)
        expect(w.device->vq[queue].runs == before->vq.runs + foreseen.runs, "queue %u: runs were counted wrong", queue);
    check_kick(queue, before);
    if (!foreseen.runs)
        return;
    run.runs++;
    run.foreseen += foreseen.certain;
    driver_has_room(queue);
    if (w.kind->serve)
        settle(queue, &foreseen, before);
}
