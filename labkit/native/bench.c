/* Floors that need no guest: a delay with nothing between, a record with nothing around it. */
#include "bare.h"

/* The delays of a slow disk, one after the other with nothing between; how long one really takes. */
uint64_t lk_bare_delay_ns(uint64_t delay_ns, unsigned times)
{
    uint64_t start = bare_now_ns();
    for (unsigned i = 0; i < times; i++)
        lk_be_slow(delay_ns);
    return (bare_now_ns() - start) / times;
}

/* A clock read and a 64-byte store: the floor of an event. Picoseconds an event, so that a few ns can be compared. */
uint64_t lk_bare_event_ps(unsigned times)
{
    static lk_event ring[1024];
    uint64_t start = bare_now_ns();
    for (unsigned i = 0; i < times; i++) {
        ring[i % 1024] = (lk_event){.seq = i + 1, .time_ns = bare_now_ns(), .kind = EV_STEP, .a = i};
        __asm__ volatile("" ::"r"(ring) : "memory"); /* the store must happen */
    }
    return (bare_now_ns() - start) * 1000 / times;
}

/* The same for the real feed. */
uint64_t lk_event_ps(lk_feed *feed, unsigned times)
{
    uint64_t start = bare_now_ns();
    for (unsigned i = 0; i < times; i++)
        lk_feed_emit(feed, EV_STEP, -1, i, 0, 0, 0, 0);
    return (bare_now_ns() - start) * 1000 / times;
}

/* Ticks of this CPU's time stamp counter in a millisecond, found by watching both clocks; 0 if there is none. */
uint64_t lk_tsc_khz(void)
{
#ifdef __x86_64__
    const uint64_t watched_ns = 20000000;
    uint64_t start = bare_now_ns(), ticks = __builtin_ia32_rdtsc(), now;
    do
        now = bare_now_ns();
    while (now - start < watched_ns);
    return (__builtin_ia32_rdtsc() - ticks) * 1000000 / (now - start);
#else
    return 0;
#endif
}
