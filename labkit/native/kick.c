/* Who runs a queue, and by which path did the kick come? A trap, the iothread, a draining STOP: all meet here. */
#include "queue.h"

typedef void serve_queue(lk_device *device, lk_vq *vq);

/* What each kind of device does with a kick; one that is not named does nothing. */
static serve_queue *const serve[DEVICE_KINDS] = {
    [DEVICE_BLK] = blk_serve,
    [DEVICE_NET] = net_serve,
};

static int ignored(lk_device *device, unsigned queue, uint64_t value, int why)
{
    lk_feed_emit(device->machine->feed, EV_KICK_IGNORED, queue < QUEUE_MAX ? (int)queue : -1, value, (uint64_t)why, 0,
                 0, 0);
    return 0;
}

/* Runs a queue once (R12, R14), whoever asks. 1 if the device looked at the ring. */
int lk_queue_run(lk_device *device, unsigned queue, int how)
{
    if (queue >= QUEUE_MAX)
        return ignored(device, queue, queue, IGNORED_INDEX);
    lk_vq *vq = &device->vq[queue];
    if (!vq->desc)
        return ignored(device, queue, queue, IGNORED_NO_RING);
    if (device->broken)
        return ignored(device, queue, queue, IGNORED_BROKEN);
    vq->runs++;
    vq->unfinished = 0;
    lk_feed_emit(device->machine->feed, EV_QUEUE_NOTIFY, vq->index, (uint64_t)how, 0, 0, 0, 0);
    if (serve[device->kind])
        serve[device->kind](device, vq);
    return 1;
}

/* A kick that trapped: the written value is the queue's index, compared unsigned (R12). */
int lk_queue_trap(lk_device *device, uint32_t value, unsigned width, uint16_t port)
{
    int ran;
    lk_lock_take(device->machine);
    if (value >= QUEUE_MAX) {
        ran = ignored(device, value, value, IGNORED_INDEX);
    } else {
        device->vq[value].trapped++;
        lk_feed_emit(device->machine->feed, EV_KICK_TRAP, (int)value, value, width, port, 0, 0);
        ran = lk_queue_run(device, value, RUN_TRAP);
    }
    lk_lock_release(device->machine);
    return ran;
}

/* Test-and-clear of a host notifier, by the iothread's handler or by STOP (R5). Returns the eventfd's count.
 * The first count after an assign holds the 1 the eventfd was born with: a synthetic kick, not the guest's. */
uint64_t lk_notifier_take(lk_device *device, unsigned queue, int how)
{
    lk_vq *vq = &device->vq[queue % QUEUE_MAX];
    uint64_t count = 0;
    if (vq->notifier_fd < 0 || read(vq->notifier_fd, &count, sizeof count) != sizeof count)
        return 0;
    uint64_t synthetic = vq->synthetic_due ? 1 : 0, kicks = count - synthetic;
    vq->synthetic_due = 0;
    vq->synthetic += synthetic;
    vq->signalled += kicks;
    if (how == RUN_DRAIN)
        vq->drained += kicks;
    lk_feed_emit(device->machine->feed, how == RUN_DRAIN ? EV_DRAIN : EV_KICK_EVENTFD, vq->index, kicks, synthetic, 0,
                 0, 0);
    return count;
}
