/* Who runs a queue, and by which path did the kick come? A trap, the iothread, a draining STOP: all meet here. */
#include "queue.h"

typedef void serve_queue(lk_device *device, lk_vq *vq);

/* What each kind of device does with a kick; one that is not named does nothing. */
static serve_queue *const serve[DEVICE_KINDS] = {
    [DEVICE_BLK] = blk_serve,
    [DEVICE_NET] = net_serve,
    [DEVICE_CONSOLE] = console_serve,
    [DEVICE_PYTHON] = python_serve,
};

static int ignored(lk_device *device, unsigned queue, uint64_t value, int why)
{
    lk_feed_emit(device->machine->feed, EV_KICK_IGNORED, queue < QUEUE_MAX ? (int)queue : -1, value, (uint64_t)why, 0,
                 0, 0);
    return 0;
}

/* 0, or IGNORED_*: may this queue be run at all (R12)? */
static int why_not(const lk_device *device, unsigned queue)
{
    if (queue >= QUEUE_MAX)
        return IGNORED_INDEX;
    if (!device->vq[queue].desc && !(device->mutations & MUTATE_RUNS_WITHOUT_RING))
        return IGNORED_NO_RING;
    return device->broken ? IGNORED_BROKEN : 0;
}

/* avail.idx or used.idx as it stands in guest memory now. */
static uint64_t ring_idx(const lk_device *device, uint64_t ring_gpa)
{
    const uint16_t *at = lk_memory_at(&device->machine->memory, ring_gpa + RING_IDX, sizeof *at);
    return at ? load_relaxed(at) : NO_INDEX;
}

static void notify_event(lk_device *device, const lk_vq *vq, int how)
{
    lk_feed_emit(device->machine->feed, EV_QUEUE_NOTIFY, vq->index, (uint64_t)how, ring_idx(device, vq->avail),
                 vq->last_avail, ring_idx(device, vq->used), 0);
}

/* The device looks at the ring, unless it may not touch memory. */
static int look(lk_device *device, lk_vq *vq)
{
    if (device->disabled)
        return ignored(device, vq->index, vq->index, IGNORED_DISABLED);
    vq->runs++;
    vq->unfinished = 0;
    if (serve[device->kind])
        serve[device->kind](device, vq);
    return TRAP_RAN;
}

/* Runs a queue once (R12, R14), whoever asks. 1 if the device looked at the ring. */
int lk_queue_run(lk_device *device, unsigned queue, int how)
{
    int why = why_not(device, queue);
    if (why)
        return ignored(device, queue, queue, why);
    notify_event(device, &device->vq[queue], how);
    return look(device, &device->vq[queue]);
}

/* The device looks at a queue whose kick was told already: the rules had a say in between. */
int lk_queue_look(lk_device *device, unsigned queue)
{
    return why_not(device, queue) ? 0 : look(device, &device->vq[queue]);
}

/* Does the kick go to the owner of the notifier, and not to the device? */
static int is_the_owners(const lk_device *device, const lk_vq *vq)
{
    return vq->notifier_fd >= 0 && (device->forwards_traps || vq->lent) && !(device->mutations & MUTATE_TRAP_BYPASSES);
}

/* The owner of the notifier gets the kick, whoever that is. */
static int forward(lk_device *device, lk_vq *vq, uint32_t value, unsigned width)
{
    const uint64_t one = 1;
    if (device->mutations & MUTATE_TRAP_DROPS && vq->lent)
        return TRAP_FORWARDED;
    lk_feed_emit(device->machine->feed, EV_FORWARD, vq->index, value, width, (uint64_t)vq->notifier_fd, 0, 0);
    if (write(vq->notifier_fd, &one, sizeof one) == sizeof one)
        vq->forwarded_due++;
    return TRAP_FORWARDED;
}

/* A kick that trapped: the written value is the queue's index, compared unsigned (R12). Under the big lock. */
int lk_queue_trap_locked(lk_device *device, uint32_t value, unsigned width, uint16_t port)
{
    if (value >= device->queue_indices)
        return ignored(device, QUEUE_MAX, value, IGNORED_INDEX);
    if (value >= QUEUE_MAX)
        return ignored(device, QUEUE_MAX, value, IGNORED_NO_RING);
    lk_vq *vq = &device->vq[value];
    vq->trapped++;
    lk_feed_emit(device->machine->feed, EV_KICK_TRAP, (int)value, value, width, port, 0, 0);
    int why = why_not(device, value);
    if (why)
        return ignored(device, value, value, why);
    notify_event(device, vq, RUN_TRAP);
    if (device->starts_on_kick)
        return TRAP_STARTS;
    if (is_the_owners(device, vq))
        return forward(device, vq, value, width);
    return look(device, vq);
}

/* MUTATE_SIGNED_INDEX: half of all indices are below any limit then, and what lies there is no queue. */
static int leads_outside(const lk_device *device, uint32_t value)
{
    return device->mutations & MUTATE_SIGNED_INDEX && (int32_t)value < 0;
}

/* The same for the vCPU thread. TRAP_STARTS: nothing was done or counted, the kick is for the rules to see. */
int lk_queue_trap(lk_device *device, uint32_t value, unsigned width, uint16_t port)
{
    lk_lock_take(device->machine);
    int left = device->starts_on_kick || leads_outside(device, value);
    int what = left ? TRAP_STARTS : lk_queue_trap_locked(device, value, width, port);
    lk_lock_release(device->machine);
    return what;
}

/* Test-and-clear of a host notifier, by the iothread's handler or by STOP (R5). Returns the eventfd's count.
 * What the eventfd was born with and START signalled is a synthetic kick, one for each START; what trapped and was
 * forwarded is counted as trapped already. The rest are the guest's kicks by eventfd. */
uint64_t lk_notifier_take(lk_device *device, unsigned queue, int how)
{
    lk_vq *vq = &device->vq[queue % QUEUE_MAX];
    uint64_t count = 0;
    if (vq->notifier_fd < 0 || read(vq->notifier_fd, &count, sizeof count) != sizeof count)
        return 0;
    uint64_t synthetic = vq->synthetic_due ? 1 : 0, forwarded = vq->forwarded_due;
    uint64_t kicks = count - vq->synthetic_due - forwarded;
    vq->synthetic_due = vq->forwarded_due = 0;
    vq->synthetic += synthetic;
    vq->signalled += kicks;
    if (how == RUN_DRAIN)
        vq->drained += kicks;
    lk_feed_emit(device->machine->feed, how == RUN_DRAIN ? EV_DRAIN : EV_KICK_EVENTFD, vq->index, kicks, synthetic,
                 forwarded, 0, 0);
    return count;
}
