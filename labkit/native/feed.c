/* One event feed for every thread: a ring of fixed records, written without a lock, read without stopping anybody.
 * The newest records win; a reader that falls behind is told how many it lost. */
#include "gates.h"
#include <sched.h>
#include <time.h>

struct lk_feed {
    uint64_t next; /* records ever begun */
    uint64_t mask;
    lk_event *ring;
    lk_gates *gates; /* whoever emits stops there; NULL: nobody is to be stopped */
};

static __thread uint16_t this_actor = ACTOR_HOST;

void lk_set_actor(uint16_t actor)
{
    this_actor = actor;
}

uint16_t lk_actor(void)
{
    return this_actor;
}

lk_feed *lk_feed_new(uint32_t capacity)
{
    uint64_t records = 64;
    while (records < capacity)
        records *= 2;
    lk_feed *feed = calloc(1, sizeof *feed);
    if (!feed)
        return NULL;
    feed->mask = records - 1;
    feed->ring = mmap(NULL, records * sizeof(lk_event), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (feed->ring == MAP_FAILED) {
        free(feed);
        return NULL;
    }
    return feed;
}

void lk_feed_free(lk_feed *feed)
{
    if (!feed)
        return;
    munmap(feed->ring, (feed->mask + 1) * sizeof(lk_event));
    free(feed);
}

void lk_feed_emit(lk_feed *feed, uint16_t kind, int32_t queue, uint64_t a, uint64_t b, uint64_t c, uint64_t d,
                  uint64_t e)
{
    struct timespec now;
    uint64_t at = __atomic_fetch_add(&feed->next, 1, __ATOMIC_RELAXED);
    uint64_t lap_before = at > feed->mask ? at - feed->mask : 0; /* seq of the record that stands here */
    lk_event *event = &feed->ring[at & feed->mask];
    while (load_acquire(&event->seq) != lap_before)
        sched_yield(); /* its writer was held up for a whole lap; two at once would mix two events into one */
    store_relaxed(&event->seq, 0);
    __atomic_thread_fence(__ATOMIC_RELEASE);
    clock_gettime(CLOCK_MONOTONIC, &now);
    event->time_ns = (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
    event->kind = kind;
    event->actor = this_actor;
    event->queue = queue;
    event->a = a;
    event->b = b;
    event->c = c;
    event->d = d;
    event->e = e;
    store_release(&event->seq, at + 1);
    lk_gates *gates = load_relaxed(&feed->gates);
    if (__builtin_expect(gates != NULL, 0))
        gates_pass(gates, kind, queue);
}

/* Every event is a gate from now on; NULL: no more. */
void lk_feed_guard(lk_feed *feed, lk_gates *gates)
{
    store_release(&feed->gates, gates);
}

uint64_t lk_feed_next(const lk_feed *feed)
{
    return load_acquire(&feed->next);
}

/* Copies records from position *from on, stops at the first one still being written, and moves *from past the last. */
uint32_t lk_feed_read(const lk_feed *feed, uint64_t *from, lk_event *out, uint32_t most, uint64_t *lost)
{
    uint64_t next = lk_feed_next(feed), oldest = next > feed->mask + 1 ? next - feed->mask - 1 : 0;
    uint32_t copied = 0;
    *lost = 0;
    if (*from < oldest) {
        *lost = oldest - *from;
        *from = oldest;
    }
    while (*from < next && copied < most) {
        const lk_event *event = &feed->ring[*from & feed->mask];
        uint64_t before = load_acquire(&event->seq);
        if (before < *from + 1)
            break;
        out[copied] = *event;
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (before == *from + 1 && load_relaxed(&event->seq) == before)
            copied++;
        else
            (*lost)++; /* overwritten while being copied */
        (*from)++;
    }
    return copied;
}

/* -- a summary, for who cannot look at each event ------------------------------------------------------------------------ */

static unsigned lane_of(const lk_event *event)
{
    if (event->kind == EV_STEP || event->kind == EV_STEP_DONE)
        return LANE_GUEST;
    if (event->actor < ACTOR_VCPU0)
        return LANE_THREADS + (event->actor & 3u);
    return LANE_VCPU0 + (event->actor - ACTOR_VCPU0) % VCPUS_MAX;
}

/* Of a synthetic kick (R3) nobody is the maker, and a forwarded one was told when it was. */
static int is_kick(const lk_event *event)
{
    if (event->kind == EV_KICK_EVENTFD || event->kind == EV_DRAIN)
        return event->a > 0;
    return event->kind == EV_KICK_TRAP || event->kind == EV_KICK_IGNORED || event->kind == EV_FORWARD;
}

/* Counts it by time and thread, and keeps the newest kick. 1: it is one of the rare. */
int lk_tally_event(lk_tally *tally, const lk_event *event)
{
    uint64_t column = event->time_ns / tally->column_ns;
    unsigned place = (unsigned)(column % TALLY_COLUMNS);
    if (tally->columns[place] < column) {
        tally->columns[place] = column;
        memset(tally->counts[place], 0, sizeof tally->counts[place]);
    }
    if (tally->columns[place] == column)
        tally->counts[place][lane_of(event)]++;
    if (is_kick(event))
        tally->kick = *event;
    return (int)(tally->rare >> (event->kind & 63u) & 1);
}

/* The same for all from position *from on, where they stand; the rare ones are copied out. Stops when out[] is full, or at
 * one that is still being written, and moves *from past the last. Returns how many are in out[]. */
uint32_t lk_feed_tally(const lk_feed *feed, uint64_t *from, lk_tally *tally, lk_event *out, uint32_t most,
                       uint64_t *lost)
{
    uint64_t next = lk_feed_next(feed), oldest = next > feed->mask + 1 ? next - feed->mask - 1 : 0;
    uint32_t found = 0;
    *lost = *from < oldest ? oldest - *from : 0;
    *from += *lost;
    for (; *from < next && found < most; (*from)++) {
        const lk_event *event = &feed->ring[*from & feed->mask];
        uint64_t before = load_acquire(&event->seq);
        if (before < *from + 1)
            break;
        lk_event copy = *event;
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (before != *from + 1 || load_relaxed(&event->seq) != before)
            (*lost)++; /* overwritten while being looked at */
        else if (lk_tally_event(tally, &copy))
            out[found++] = copy;
    }
    return found;
}
