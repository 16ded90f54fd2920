/* Floors that need no guest: a delay with nothing between, a record with nothing around it. */
#include "core.h"
#include <time.h>

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* The delays of a slow disk, one after the other with nothing between; how long one really takes. */
uint64_t lk_bare_delay_ns(uint64_t delay_ns, unsigned times)
{
    uint64_t start = now_ns();
    for (unsigned i = 0; i < times; i++)
        lk_be_slow(delay_ns);
    return (now_ns() - start) / times;
}

/* A clock read and a 64-byte store: the floor of an event. Picoseconds an event, so that a few ns can be compared. */
uint64_t lk_bare_event_ps(unsigned times)
{
    static lk_event ring[1024];
    uint64_t start = now_ns();
    for (unsigned i = 0; i < times; i++) {
        ring[i % 1024] = (lk_event){.seq = i + 1, .time_ns = now_ns(), .kind = EV_STEP, .a = i};
        __asm__ volatile("" ::"r"(ring) : "memory"); /* the store must happen */
    }
    return (now_ns() - start) * 1000 / times;
}

/* The same for the real feed. */
uint64_t lk_event_ps(lk_feed *feed, unsigned times)
{
    uint64_t start = now_ns();
    for (unsigned i = 0; i < times; i++)
        lk_feed_emit(feed, EV_STEP, -1, i, 0, 0, 0, 0);
    return (now_ns() - start) * 1000 / times;
}
