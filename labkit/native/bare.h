/* The raw floors of the bench: bare loops on the same machine, without checks, events, locks or rules.
 *
 *   bare.c            the server of the ring, and the thread behind an eventfd: the same for all
 *   kvm_bare.c        the loop around KVM_RUN
 *   emulated_bare.c   the loop around the Unicorn library */
#ifndef LABKIT_BARE_H
#define LABKIT_BARE_H

#include "core.h"
#include <time.h>

int bare_serve(lk_bare *bare); /* 1: the driver is to be interrupted */
int bare_step(lk_bare *bare, uint32_t command, int (*run)(lk_bare *bare, uint32_t command)); /* what `run` returns */

static inline uint64_t bare_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static inline void bare_signal(int fd)
{
    const uint64_t one = 1;
    (void)!write(fd, &one, sizeof one);
}

#endif
