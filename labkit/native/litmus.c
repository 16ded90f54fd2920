/* Can a load pass the store before it? Two threads on one ring: each stores its own index, then looks at the other's. If
 * both see the old one, the device raises no interrupt for a driver that sleeps: each trusts the other to look. */
#include "core.h"
#include <sched.h>

#define SPINS 2000 /* then the other thread is not running: it is let run */
#define LINE 64

typedef struct {
    _Alignas(LINE) uint64_t used_idx; /* the device's; as in a ring, the two are on lines of their own */
    _Alignas(LINE) uint64_t wish; /* the driver's: from which index on it wants to be woken */
    _Alignas(LINE) uint64_t device_round;
    _Alignas(LINE) uint64_t driver_round;
} shared_ring;

typedef struct {
    uint64_t *mine, *others, *my_round, *others_round;
    uint64_t rounds;
    int barrier;
    uint8_t *saw_old; /* by round */
} side;

/* Both begin a round together, as nearly as two threads can. */
static void meet(const side *one, uint64_t round)
{
    unsigned spins = 0;
    store_release(one->my_round, round);
    while (load_acquire(one->others_round) < round)
        if (++spins == SPINS) {
            spins = 0;
            sched_yield();
        }
}

static void *play(void *argument)
{
    const side *one = argument;
    for (uint64_t round = 1; round <= one->rounds; round++) {
        meet(one, round);
        store_relaxed(one->mine, round);
        if (one->barrier)
            full_barrier();
        one->saw_old[round - 1] = load_relaxed(one->others) < round;
    }
    return NULL;
}

static int64_t both(const side *device, const side *driver)
{
    int64_t count = 0;
    for (uint64_t i = 0; i < device->rounds; i++)
        count += device->saw_old[i] && driver->saw_old[i];
    return count;
}

/* In how many rounds both saw the old value. `barriers`: LITMUS_*, who has one. -errno: no memory or no thread. */
int64_t lk_litmus(uint64_t rounds, unsigned barriers)
{
    shared_ring ring = {0};
    pthread_t thread;
    side device = {&ring.used_idx,     &ring.wish, &ring.device_round,
                   &ring.driver_round, rounds,     !!(barriers & LITMUS_DEVICE_BARRIER),
                   calloc(rounds, 1)};
    side driver = {&ring.wish,         &ring.used_idx, &ring.driver_round,
                   &ring.device_round, rounds,         !!(barriers & LITMUS_DRIVER_BARRIER),
                   calloc(rounds, 1)};
    int64_t result = -ENOMEM;
    if (device.saw_old && driver.saw_old) {
        result = -pthread_create(&thread, NULL, play, &device);
        if (!result) {
            play(&driver);
            pthread_join(thread, NULL);
            result = both(&device, &driver);
        }
    }
    free(device.saw_old);
    free(driver.saw_old);
    return result;
}
