/* A legacy virtio-pci device and its driver's state. */
#ifndef LABKIT_VIRTIO_LEGACY_H
#define LABKIT_VIRTIO_LEGACY_H

#include "ring.h"

typedef struct {
    uint32_t function; /* PCI; 0: not found yet */
    uint16_t device_id;
    uint16_t bar0;
    uint16_t queues;   /* set up; 0: nothing negotiated */
    uint32_t irq;      /* IRQ_* in use */
    uint16_t vectors;  /* of MSI-X, while it is in use */
    uint32_t offered, accepted;
    ring rings[QUEUE_MAX];
} virtio_device;

extern virtio_device the_device;

/* AGENT_OK or AGENT_NO_DEVICE. Leaves STATUS = ACKNOWLEDGE|DRIVER; queue_limit 0: all queues. */
uint32_t virtio_negotiate(virtio_device *v, uint32_t irq, uint32_t features, uint32_t queue_limit, uint32_t vcpus);
uint8_t virtio_set_status(virtio_device *v, uint8_t status); /* returns what reads back */
uint8_t virtio_status(const virtio_device *v);
uint64_t virtio_capacity(const virtio_device *v); /* blk: sectors */
void virtio_kick(const virtio_device *v, uint16_t queue);
uint64_t virtio_busy_slots(const virtio_device *v); /* a bit for each in flight on any queue: queues share slots */
void virtio_relax(const virtio_device *v); /* a moment's wait: hlt with interrupts, pause without */
bool virtio_wait(const virtio_device *v, const ring *r, uint64_t deadline); /* false: the deadline has passed */

#endif
