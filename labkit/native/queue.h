/* The split ring as a device sees it (legacy layout). Every address and index comes from the guest
 * and is checked; a guest that breaks its ring makes the device broken until reset, never the process. */
#ifndef LABKIT_QUEUE_H
#define LABKIT_QUEUE_H

#include "core.h"

#define RING_IDX 2 /* where idx stands in avail and in used */

/* One popped chain: host addresses, checked. out = readable by the device, in = writable. */
struct lk_chain {
    uint16_t head;
    uint32_t out_count, in_count;
    uint64_t out_bytes, in_bytes;
    struct iovec out[QUEUE_SIZE_MAX], in[QUEUE_SIZE_MAX];
    struct iovec writable[QUEUE_SIZE_MAX]; /* `in` as it was: a device may eat that up */
};

/* 1: taken, -1: broken; 0: the ring is empty, and the next entry is worth a kick. A device that leaves entries in the ring
 * is not promised one. */
int queue_pop(lk_device *device, lk_vq *vq);
int queue_has_next(lk_device *device, lk_vq *vq);
void queue_unpop(lk_vq *vq);
void queue_push(lk_device *device, lk_vq *vq, uint16_t head, uint32_t written);
void queue_push_chain(lk_device *device, lk_vq *vq, uint32_t written);
void queue_look_early(lk_device *device, lk_vq *vq);
void queue_interrupt(lk_device *device, lk_vq *vq);
int device_interrupt(lk_device *device, uint8_t isr, unsigned vector);
void queue_raise(lk_device *device, lk_vq *vq);
void device_break(lk_device *device, const lk_vq *vq, int reason, uint64_t detail);
void blk_serve(lk_device *device, lk_vq *vq);
void console_serve(lk_device *device, lk_vq *vq);
void python_serve(lk_device *device, lk_vq *vq);
void net_serve(lk_device *device, lk_vq *vq);
void net_reset(lk_device *device);

#endif
