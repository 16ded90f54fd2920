/* Floors that need no guest: a delay with nothing between, a record with nothing around it. */
#include "bare.h"
#include <sys/socket.h>

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

/* One memcpy. */
uint64_t lk_bare_copy_ns(void *to, const void *from, uint64_t bytes)
{
    uint64_t start = bare_now_ns();
    memcpy(to, from, bytes);
    __asm__ volatile("" ::"r"(to) : "memory"); /* the copy must happen */
    return bare_now_ns() - start;
}

/* -- what two can say to each other through a blocking socket: so many bytes, and one byte as the answer ------------- */

static int give(int fd, const uint8_t *from, uint64_t bytes)
{
    for (ssize_t done; bytes; from += done, bytes -= (uint64_t)done)
        if ((done = send(fd, from, bytes, MSG_NOSIGNAL)) <= 0)
            return -1;
    return 0;
}

static int take(int fd, uint8_t *to, uint64_t bytes)
{
    for (ssize_t done; bytes; to += done, bytes -= (uint64_t)done)
        if ((done = recv(fd, to, bytes, 0)) <= 0)
            return -1;
    return 0;
}

/* From the first byte given until the answer is there; 0 if the other side is gone. */
uint64_t lk_bare_ask_ns(int fd, const void *question, uint64_t bytes)
{
    uint8_t answer;
    uint64_t start = bare_now_ns();
    return give(fd, question, bytes) || take(fd, &answer, sizeof answer) ? 0 : bare_now_ns() - start;
}

/* The other side of as many questions, each into the same place. 0, or -1 if whoever asks is gone. */
int lk_bare_answer(int fd, void *question, uint64_t bytes, unsigned times)
{
    const uint8_t answer = 0;
    for (unsigned i = 0; i < times; i++)
        if (take(fd, question, bytes) || give(fd, &answer, sizeof answer))
            return -1;
    return 0;
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
