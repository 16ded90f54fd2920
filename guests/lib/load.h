/* The load generator: one queue, one lock, any number of vCPUs; and the kick loop. */
#ifndef LABKIT_LOAD_H
#define LABKIT_LOAD_H

#include "virtio_legacy.h"

typedef struct {
    uint32_t queue, depth, type, bytes, vcpus;
    uint32_t think_ticks; /* work on each completion, outside the lock */
    uint64_t requests, timeout_ticks, sectors;
} load_plan;

typedef struct {
    uint64_t ticks, completed, errors, kicks, interrupts, kick_ticks, lock_ticks, own_ticks;
} load_result;

/* Every vCPU that takes part calls it with the same plan. AGENT_*. Requests and errors are those of all, and so are
 * kicks and interrupts in vCPU 0's result; the ticks in kicks, at the lock and of its own part in all are each vCPU's. */
uint32_t load_run(virtio_device *v, const load_plan *plan, uint32_t vcpu, load_result *result);

uint64_t kick_loop(uint16_t port, uint32_t width, uint32_t value, uint64_t kicks); /* TSC ticks of all */

#endif
