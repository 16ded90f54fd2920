/* Can any driver make the C core do more than break its own device? Random steps, each checked against the model.
 *
 *   core_fuzz [--seed N] [--steps N] [--kind NAME] [--trace] [--sabotage WHAT]
 *
 * The same arguments do the same. --sabotage does a deliberate wrong after a run, which must be reported: overrun,
 * stray, used-idx, inuse, lost-kick, counted-twice, interrupt, asks, mended, pending. --kinds lists the kinds of device. */
#include "fuzz.h"
#include <sanitizer/common_interface_defs.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/eventfd.h>

#define LIFE_STEPS 400 /* a device's life, more or less */
#define NOTIFY_PORT 0xc010
#define MANY_INDICES 1024 /* as some rules let them through */

progress run = {.seed = 1, .steps = 30000, .doing = "setting up"};

static void say_where(void)
{
    fprintf(stderr, "core_fuzz: step %lu (%s, device %s); replay: core_fuzz --seed %lu --steps %lu%s%s --trace\n",
            run.at, run.doing, w.kind ? w.kind->name : "none", run.seed, run.at, run.only ? " --kind " : "",
            run.only ? run.only : "");
}

void fail(const char *form, ...)
{
    va_list arguments;
    fprintf(stderr, "core_fuzz: FAILED: ");
    va_start(arguments, form);
    vfprintf(stderr, form, arguments);
    va_end(arguments);
    fprintf(stderr, "\n");
    say_where();
    exit(1);
}

/* -- the steps ------------------------------------------------------------------------------------------------------------ */

static unsigned some_queue(void)
{
    return one_in(20) ? below(QUEUE_MAX) : below(w.kind->queues);
}

static void add(void)
{
    unsigned queue = below(w.kind->queues);
    for (unsigned count = 1 + below(one_in(8) ? 16 : 3); count; count--)
        driver_add(queue);
}

/* A kick that trapped; any value, cut to the width of the access. */
static void kick_by_trap(void)
{
    static const unsigned widths[] = {1, 2, 2, 2, 4};
    unsigned width = widths[below(5)];
    uint32_t limit = one_in(2) ? QUEUE_MAX : MANY_INDICES;
    uint32_t value = one_in(16) ? (uint32_t)roll() : one_in(16) ? limit - 1 + below(3) : some_queue();
    value &= (uint32_t)((UINT64_C(1) << 8 * width) - 1);
    if (value < QUEUE_MAX)
        w.queues[value].trapped++;
    before_run before = begin_run(value, true);
    end_run(value, &before, lk_queue_trap(w.device, value, width, NOTIFY_PORT));
}

void run_locked(unsigned queue, int how)
{
    before_run before = begin_run(queue, false);
    lk_lock_take(w.machine);
    int ran = lk_queue_run(w.device, queue, how);
    lk_lock_release(w.machine);
    end_run(queue, &before, ran);
}

static void run_unasked(void)
{
    run_locked(one_in(8) ? (unsigned)roll() : some_queue(), RUN_TRAP + (int)below(RUN_HOST));
}

/* Test-and-clear, and the run that follows. The count is all that was written: each kick once, by whatever path. */
static void take(unsigned queue, int how)
{
    driver_queue *driver = &w.queues[queue];
    bool there = w.device->vq[queue].notifier_fd >= 0;
    uint64_t due = there ? driver->unread + driver->forwarded + w.device->vq[queue].synthetic_due : 0;
    uint64_t count = lk_notifier_take(w.device, queue, how);
    expect(count == due, "queue %u: %lu taken, %lu were there", queue, count, due);
    driver->unread = driver->forwarded = 0;
    if (count)
        run_locked(queue, how);
}

/* As START does: an eventfd born with 1. Or as STOP does, once it is drained. */
static void notifier(void)
{
    unsigned queue = below(w.kind->queues);
    lk_vq *vq = &w.device->vq[queue];
    if (vq->notifier_fd < 0) {
        vq->notifier_fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK);
        vq->synthetic_due = 1;
        w.queues[queue].synthetic++;
        return;
    }
    take(queue, RUN_DRAIN);
    close(vq->notifier_fd);
    vq->notifier_fd = -1;
}

/* Kicks by eventfd, as KVM makes them; mostly taken at once. */
static void kick_by_eventfd(void)
{
    unsigned queue = some_queue();
    int fd = w.device->vq[queue].notifier_fd;
    uint64_t kicks = 1 + below(3);
    if (fd >= 0) {
        expect(write(fd, &kicks, sizeof kicks) == sizeof kicks, "eventfd: %s", strerror(errno));
        w.queues[queue].signalled += kicks;
        w.queues[queue].unread += kicks;
    }
    if (!one_in(4))
        take(queue, RUN_IOTHREAD);
}

static void new_rings(void)
{
    for (unsigned queue = 0; queue < w.kind->queues; queue++)
        driver_new_ring(queue, RING_PAGE(queue));
}

/* QUEUE_PFN somewhere else: at the end of RAM, past it, nowhere, over something. */
static void move_ring(void)
{
    static const uint32_t odd[] = {RAM_BYTES / PAGE_BYTES, RAM_BYTES / PAGE_BYTES - 1, UINT32_MAX, 0, 0x100000};
    unsigned queue = some_queue();
    uint32_t pfn = one_in(2) ? odd[below(5)] : below(RAM_BYTES / PAGE_BYTES);
    if (one_in(2))
        driver_new_ring(queue, pfn);
    else
        lk_queue_set_pfn(w.device, queue + QUEUE_MAX * below(2), pfn);
}

static void features(void)
{
    w.device->guest_features = (uint32_t)(one_in(2) << FEATURE_INDIRECT_DESC | one_in(2) << FEATURE_NOTIFY_ON_EMPTY |
                                          one_in(3) << FEATURE_EVENT_IDX);
}

static void reset(void)
{
    lk_device_reset(w.device);
    expect(!w.device->broken && !w.device->guest_features && !w.device->isr, "a reset left something");
    w.was_broken = false;
    read_events();
    for (unsigned queue = 0; queue < w.kind->queues; queue++)
        if (one_in(4))
            w.device->vq[queue].num = one_in(16) ? 0 : some_size();
    new_rings();
    features();
}

static void raise_vector(unsigned vector)
{
    message_sent(vector, lk_vector_raise(w.device, vector));
}

/* Masks as the guest sets them; what is no longer held back is delivered, as the MSI-X table does. */
static void vectors(void)
{
    unsigned vector = below(VECTORS);
    switch (below(5)) {
    case 0:
        w.device->msix_enabled = !w.device->msix_enabled;
        break;
    case 1:
        w.device->msix_masked = !w.device->msix_masked;
        break;
    case 2:
        w.device->vectors[vector].masked = !w.device->vectors[vector].masked;
        break;
    case 3:
        raise_vector(one_in(8) ? (unsigned)roll() : vector);
        break;
    default:
        w.device->vq[below(w.kind->queues)].vector = (uint16_t)(one_in(8) ? roll() : one_in(4) ? NO_VECTOR : vector);
    }
    for (unsigned v = 0; v < VECTORS; v++)
        if (w.device->vectors[v].pending && w.device->msix_enabled && !w.device->msix_masked)
            raise_vector(v);
}

static void stop_or_go(void)
{
    w.device->stopping = !w.device->stopping && one_in(4);
}

/* What a revision of the rules, and bus-master, make of the device. */
static void rules(void)
{
    switch (below(4)) {
    case 0:
        w.device->suppress = !w.device->suppress;
        break;
    case 1:
        w.device->forwards_traps = !w.device->forwards_traps;
        break;
    case 2:
        w.device->queue_indices = one_in(2) ? QUEUE_MAX : MANY_INDICES;
        break;
    default:
        w.device->disabled = !w.device->disabled && one_in(8);
    }
}

static void host(void)
{
    if (w.kind->host)
        w.kind->host();
}

static const kind *chosen_kind(void)
{
    for (unsigned i = 0; run.only && i < kind_count; i++)
        if (!strcmp(kinds[i].name, run.only))
            return &kinds[i];
    expect(!run.only, "no such kind: %s", run.only);
    return &kinds[below(kind_count)];
}

static void new_life(void)
{
    new_device(chosen_kind());
    w.device->suppress = one_in(2);
    w.device->forwards_traps = one_in(2);
    w.device->queue_indices = one_in(2) ? QUEUE_MAX : MANY_INDICES;
    features();
    new_rings();
    run.lives++;
}

static const struct {
    unsigned weight;
    const char *name;
    void (*step)(void);
} steps[] = {
    {30, "add", add},
    {24, "kick by trap", kick_by_trap},
    {14, "kick by eventfd", kick_by_eventfd},
    {4, "run unasked", run_unasked},
    {3, "notifier", notifier},
    {5, "vectors", vectors},
    {2, "noise", driver_noise},
    {1, "move ring", move_ring},
    {1, "features", features},
    {2, "stop or go", stop_or_go},
    {2, "rules", rules},
    {20, "host", host},
};

static void one_step(void)
{
    unsigned total = 0, n = 0;
    for (unsigned i = 0; i < sizeof steps / sizeof *steps; i++)
        total += steps[i].weight;
    for (unsigned dart = below(total); dart >= steps[n].weight; n++)
        dart -= steps[n].weight;
    run.doing = steps[n].name;
    if (one_in(LIFE_STEPS)) {
        run.doing = "new life";
        new_life();
    } else if (w.device->broken ? one_in(6) : one_in(200)) { /* broken until reset: kicked a few times more */
        run.doing = "reset";
        reset();
    } else {
        steps[n].step();
    }
    if (run.trace)
        fprintf(stderr, "%lu %s\n", run.at, run.doing);
}

/* -- arguments ------------------------------------------------------------------------------------------------------------ */

static void read_arguments(int count, char **arguments)
{
    for (int i = 1; i < count; i++) {
        const char *name = arguments[i];
        run.trace |= !strcmp(name, "--trace");
        for (unsigned k = 0; !strcmp(name, "--kinds") && k < kind_count; k++)
            puts(kinds[k].name);
        if (!strcmp(name, "--kinds"))
            exit(0);
        if (!strcmp(name, "--trace"))
            continue;
        expect(i + 1 < count, "%s: a value is missing, or no such argument", name);
        const char *value = arguments[++i];
        if (!strcmp(name, "--seed"))
            run.seed = strtoull(value, NULL, 0);
        else if (!strcmp(name, "--steps"))
            run.steps = strtoull(value, NULL, 0);
        else if (!strcmp(name, "--kind"))
            run.only = value;
        else if (!strcmp(name, "--sabotage"))
            run.sabotage = value;
        else
            fail("no such argument: %s", name);
    }
}

int main(int count, char **arguments)
{
    read_arguments(count, arguments);
    __sanitizer_set_death_callback(say_where);
    dice_seed(run.seed);
    world_open();
    new_life();
    for (run.at = 1; run.at <= run.steps; run.at++) {
        one_step();
        check_all();
    }
    world_close();
    printf("seed %lu: %lu steps, %lu devices, %lu kicks (%lu ignored, %lu forwarded), %lu runs (%lu foreseen, %lu "
           "asking), "
           "%lu requests, %lu wraps, %lu breaks, %lu frames, %lu typed\n",
           run.seed, run.steps, run.lives, run.kicks, run.ignored, run.forwarded, run.runs, run.foreseen, run.asked,
           run.served, run.wraps, run.broken, run.frames, run.typed);
    return 0;
}
