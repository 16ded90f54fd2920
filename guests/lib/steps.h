/* A step of the agent: arguments `a`, answers `r`, AGENT_*; and those that need no driver. */
#ifndef LABKIT_STEPS_H
#define LABKIT_STEPS_H

#include <stdbool.h>

#include "mailbox.h"

typedef struct {
    uint32_t vcpu, vcpus;
    mailbox *box;
} context;

typedef uint32_t step(const context *self, const uint64_t *a, uint64_t *r);

step port_in, port_out, config_read, config_write, load, store, fault;

bool good_port(uint64_t port, uint64_t width);

#endif
