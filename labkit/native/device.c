/* One virtio device: its queues, its vectors, and what makes it broken. All under the big lock. */
#include "queue.h"

static void queue_forget(lk_vq *vq)
{
    vq->last_avail = vq->used_idx = 0;
    vq->vector = NO_VECTOR;
    vq->inuse = vq->pfn = 0;
    vq->unfinished = vq->decided = 0;
    vq->desc = vq->avail = vq->used = 0;
}

lk_device *lk_device_new(lk_machine *machine, int kind)
{
    lk_device *device = calloc(1, sizeof *device);
    if (!device)
        return NULL;
    device->chain = malloc(sizeof *device->chain);
    if (!device->chain) {
        free(device);
        return NULL;
    }
    device->machine = machine;
    device->kind = kind;
    device->queue_indices = QUEUE_MAX;
    device->blk.fd = device->intx_fd = -1;
    for (int i = 0; i < QUEUE_MAX; i++) {
        device->vq[i].index = (uint16_t)i;
        device->vq[i].notifier_fd = -1;
        queue_forget(&device->vq[i]);
    }
    device->absent.notifier_fd = -1;
    queue_forget(&device->absent);
    for (int i = 0; i < MSIX_VECTORS_MAX; i++)
        device->vectors[i] = (lk_vector){.fd = -1, .masked = 1};
    return device;
}

void lk_device_free(lk_device *device)
{
    if (device)
        free(device->chain);
    free(device);
}

/* virtio reset: rings, features and interrupts are forgotten; queue sizes, notifiers and counters stay. */
void lk_device_reset(lk_device *device)
{
    for (int i = 0; i < QUEUE_MAX; i++)
        queue_forget(&device->vq[i]);
    queue_forget(&device->absent);
    device->guest_features = 0;
    device->isr = device->broken = 0;
    if (device->net)
        net_reset(device);
    lk_intx_update(device);
    lk_feed_emit(device->machine->feed, EV_DEVICE_RESET, -1, 0, 0, 0, 0, 0);
}

void device_break(lk_device *device, const lk_vq *vq, int reason, uint64_t detail)
{
    device->broken = 1;
    lk_feed_emit(device->machine->feed, EV_BROKEN, vq->index, (uint64_t)reason, detail, vq->last_avail, vq->inuse, 0);
}

/* QUEUE_PFN: desc, then avail, then used on the next RING_ALIGN boundary. Nothing is read before the first run. A queue
 * that does not exist gets no ring. */
void lk_queue_set_pfn(lk_device *device, unsigned queue, uint32_t pfn)
{
    if (queue >= QUEUE_MAX || !device->vq[queue].num)
        return; /* no such queue */
    lk_vq *vq = &device->vq[queue];
    uint64_t avail_end;
    vq->pfn = pfn;
    vq->desc = (uint64_t)pfn << QUEUE_PFN_SHIFT;
    vq->avail = vq->desc + (uint64_t)DESC_BYTES * vq->num;
    avail_end = vq->avail + 4 + 2u * vq->num + 2; /* flags, idx, ring, used_event */
    vq->used = (avail_end + RING_ALIGN - 1) & ~(uint64_t)(RING_ALIGN - 1);
    vq->last_avail = vq->used_idx = 0;
    vq->decided = 0;
}

/* Delivers an MSI-X message, or keeps it pending while the vector is masked. Returns IRQ_WAY_*. */
int lk_vector_raise(lk_device *device, unsigned vector)
{
    const uint64_t one = 1;
    if (vector >= MSIX_VECTORS_MAX || device->vectors[vector].fd < 0)
        return IRQ_WAY_NONE;
    lk_vector *entry = &device->vectors[vector];
    if (entry->masked || device->msix_masked) {
        entry->pending = 1;
        return IRQ_WAY_MASKED;
    }
    entry->pending = 0;
    int sent = write(entry->fd, &one, sizeof one) == sizeof one;
    __atomic_fetch_add(&device->machine->messages, (uint32_t)sent, __ATOMIC_RELEASE);
    return sent ? IRQ_WAY_MSIX : IRQ_WAY_NONE;
}

/* INTx is a level: high while ISR is not zero, unless MSI-X is on or COMMAND forbids it. Called after each change of
 * one of these. Returns which way an interrupt goes now. */
int lk_intx_update(lk_device *device)
{
    int wired = device->intx_fd >= 0;
    int high = wired && load_relaxed(&device->isr) && !device->msix_enabled && !device->intx_disabled;
    if (high != device->intx_high) {
        device->intx_high = (uint8_t)high;
        lk_feed_emit(device->machine->feed, EV_INTX, -1, (uint64_t)high, 0, 0, 0, 0);
        if (device->machine->set_line)
            device->machine->set_line(device->machine->lines, device->intx_fd, INTX_PIN, high);
    }
    return high ? IRQ_WAY_INTX : IRQ_WAY_ISR;
}

/* Sets bits of ISR and tells the guest. Returns IRQ_WAY_*. */
int device_interrupt(lk_device *device, uint8_t isr, unsigned vector)
{
    __atomic_fetch_or(&device->isr, isr, __ATOMIC_SEQ_CST);
    return device->msix_enabled ? lk_vector_raise(device, vector) : lk_intx_update(device);
}

/* A read of the ISR register: read and cleared in one step, so that a bit set meanwhile is seen now or next time; and
 * the line follows what is there then. */
uint8_t lk_isr_take(lk_device *device)
{
    uint8_t isr = __atomic_exchange_n(&device->isr, 0, __ATOMIC_SEQ_CST);
    lk_intx_update(device);
    return isr;
}

/* The device's own config space says something new: both bits of ISR, as the field does it, and the vector for it. */
void lk_config_changed(lk_device *device, unsigned vector)
{
    int way = device_interrupt(device, ISR_QUEUE | ISR_CONFIG, vector);
    lk_feed_emit(device->machine->feed, EV_CONFIG_CHANGED, -1, vector, (uint64_t)way, 0, 0, 0);
}
