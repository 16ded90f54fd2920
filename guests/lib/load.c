/* How fast can requests go? Keeps `depth` of them in flight until all are done.
 *
 * The vCPUs share the queue under one lock, and the kick is made inside it: that is where a slow kick hurts, for
 * everybody else waits. */
#include "load.h"
#include "irq.h"
#include "x86.h"

static struct {
    spinlock lock;
    uint32_t arrived;        /* at the meeting of this round */
    volatile uint32_t round; /* meetings that came about */
    uint64_t met;            /* TSC when the last one did: one start for all, however late a vCPU gets going */
    uint64_t slots;          /* a bit for each slot the load may use */
    uint64_t sector;         /* of the next request */
    uint64_t issued, errors, kicks;
    volatile uint64_t completed;
    uint64_t finished;        /* TSC when the last one completed */
    volatile uint32_t failed; /* AGENT_*: somebody gave up, so do all */
} shared;

/* Too late: step back, unless the last one has come meanwhile. */
static bool leave(uint32_t round)
{
    spin_lock(&shared.lock);
    bool met = shared.round != round;
    if (!met)
        shared.arrived--;
    spin_unlock(&shared.lock);
    return met;
}

/* Waits until all vCPUs are here. False: the deadline has passed. */
static bool meet(uint32_t vcpus, uint64_t deadline)
{
    spin_lock(&shared.lock);
    uint32_t round = shared.round;
    if (++shared.arrived == vcpus) {
        shared.arrived = 0;
        shared.met = rdtsc();
        shared.round++;
    }
    spin_unlock(&shared.lock);
    while (shared.round == round) {
        if (rdtsc() > deadline)
            return leave(round);
        relax();
    }
    return true;
}

static uint64_t sectors_each(const load_plan *plan)
{
    return (plan->bytes + SECTOR_BYTES - 1) / SECTOR_BYTES;
}

/* One after the other, and from the start again where the next would go past the end. */
static uint64_t next_sector(const load_plan *plan)
{
    uint64_t sector = shared.sector, step = sectors_each(plan);
    shared.sector = sector + 2 * step <= plan->sectors ? sector + step : 0;
    return sector;
}

static uint32_t reap_all(ring *r)
{
    completion done;
    enum reaped got;
    uint32_t reaped = 0;
    while ((got = ring_reap(r, &done)) == REAPED_ONE) {
        reaped++;
        shared.completed++;
        shared.errors += done.status != BLK_S_OK;
    }
    if (got == REAPED_BAD)
        shared.failed = AGENT_BAD_USED;
    return reaped;
}

/* Fills the free slots up to the depth. True if anything was added. */
static bool add_all(ring *r, const load_plan *plan)
{
    uint16_t before = r->added;
    uint64_t idle;
    while (shared.issued < plan->requests && (idle = shared.slots & ~r->in_flight)) {
        ring_add(r, lowest_bit(idle), next_sector(plan));
        shared.issued++;
    }
    return r->added != before;
}

static void kick(virtio_device *v, ring *r, load_result *result)
{
    uint64_t start = rdtsc();
    virtio_kick(v, r->index);
    result->kick_ticks += rdtsc() - start;
    result->kicks++;
    shared.kicks++;
}

static void take_lock(const load_plan *plan, load_result *result)
{
    if (plan->vcpus == 1)
        return;
    uint64_t start = rdtsc();
    spin_lock(&shared.lock);
    result->lock_ticks += rdtsc() - start;
}

/* All is done, or somebody gave up. */
static bool over(const load_plan *plan)
{
    return shared.completed >= plan->requests || shared.failed;
}

/* What a program does with what it has read: it needs the vCPU, and nothing that the others need. */
static void think(const load_plan *plan, uint32_t completions)
{
    if (!plan->think_ticks || !completions)
        return;
    uint64_t end = rdtsc() + (uint64_t)plan->think_ticks * completions;
    while (rdtsc() < end && !over(plan))
        ;
}

/* One turn under the lock, and the work on what it brought. */
static void turn(virtio_device *v, ring *r, const load_plan *plan, load_result *result)
{
    take_lock(plan, result);
    uint32_t reaped = reap_all(r);
    if (add_all(r, plan) && ring_publish(r))
        kick(v, r, result);
    if (!shared.finished && over(plan))
        shared.finished = rdtsc();
    spin_unlock(&shared.lock);
    think(plan, reaped);
}

/* Until there is something to do. Another vCPU may reap what woke this one, so a wait for used entries alone could be
 * for ever; the slow timer covers the moment between its look and its sleep. */
static void wait_for_turn(virtio_device *v, const ring *r, const load_plan *plan, uint64_t deadline)
{
    while (!ring_has_used(r) && !over(plan)) {
        if (rdtsc() > deadline)
            shared.failed = AGENT_TIMEOUT;
        else
            virtio_relax(v);
    }
}

static uint32_t check(const virtio_device *v, const load_plan *plan)
{
    if (!v->queues)
        return AGENT_NO_DEVICE;
    if (plan->queue >= v->queues)
        return AGENT_NO_QUEUE;
    const ring *r = &v->rings[plan->queue];
    if (!plan->depth || plan->depth >= r->slots || !plan->vcpus || plan->vcpus > VCPUS_MAX)
        return AGENT_BAD_ARGUMENT;
    if (plan->bytes > BUFFER_STRIDE || (plan->sectors && plan->sectors < sectors_each(plan)))
        return AGENT_BAD_ARGUMENT;
    return virtio_busy_slots(v) ? AGENT_RING_FULL : AGENT_OK;
}

static void prepare(ring *r, const load_plan *plan)
{
    for (uint32_t slot = 1; slot <= plan->depth; slot++) /* slot 0 belongs to whole requests */
        ring_describe(r, slot, plan->type, plan->bytes);
    shared.slots = ((UINT64_C(1) << plan->depth) - 1) << 1;
    shared.sector = shared.issued = shared.completed = shared.errors = shared.kicks = shared.finished = 0;
    shared.failed = AGENT_OK;
}

uint32_t load_run(virtio_device *v, const load_plan *plan, uint32_t vcpu, load_result *result)
{
    uint32_t refused = check(v, plan);
    if (refused)
        return refused;
    ring *r = &v->rings[plan->queue];
    *result = (load_result){0};
    if (!vcpu)
        prepare(r, plan);
    if (v->irq != IRQ_POLL)
        irq_here();
    if (!meet(plan->vcpus, deadline_after(plan->timeout_ticks)))
        return AGENT_TIMEOUT;

    uint64_t interrupts = device_interrupts, start = shared.met, own_start = rdtsc(),
             deadline = deadline_after(plan->timeout_ticks);
    for (turn(v, r, plan, result); !over(plan); turn(v, r, plan, result))
        wait_for_turn(v, r, plan, deadline);
    result->own_ticks = rdtsc() - own_start;
    result->interrupts = device_interrupts - interrupts;

    meet(plan->vcpus, deadline_after(0)); /* the totals are whole when all are out */
    if (!vcpu)
        result->kicks = shared.kicks;
    result->ticks = shared.finished - start;
    result->completed = shared.completed;
    result->errors = shared.errors;
    return shared.failed;
}

/* Nothing but the kicks between two looks at the clock. */
uint64_t kick_loop(uint16_t port, uint32_t width, uint32_t value, uint64_t kicks)
{
    uint64_t start = rdtsc();
    if (width == 2)
        for (; kicks; kicks--)
            out16(port, (uint16_t)value);
    else if (width == 4)
        for (; kicks; kicks--)
            out32(port, value);
    else
        for (; kicks; kicks--)
            out8(port, (uint8_t)value);
    return rdtsc() - start;
}
