/* The iothread: which fds does it watch, and what happens when one is ready? */
#include "gates.h"
#include "loop.h"
#include <signal.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>

#define SLOTS QUEUE_MAX
#define WAKE_UP UINT64_MAX
#define MUSEUM_WAIT_MS 1000

/* An event in flight names its slot and the slot's generation: a handler that was detached meanwhile never runs. */
typedef struct {
    int fd;
    uint32_t generation;
    void *who;
    unsigned queue;
    loop_ready *ready;
} handler;

struct lk_loop {
    lk_machine *machine;
    int epoll_fd, wake_fd, stop, started;
    int gone; /* its thread is about to end */
    pthread_t thread;
    uint64_t wakeups;
    int handles; /* it was woken, and has not done with that */
    uint16_t actor;
    handler slots[SLOTS];
};

static uint64_t ticket(unsigned slot, uint32_t generation)
{
    return (uint64_t)slot << 32 | generation;
}

lk_loop *lk_loop_new(lk_machine *machine)
{
    lk_loop *loop = calloc(1, sizeof *loop);
    if (!loop)
        return NULL;
    loop->machine = machine;
    loop->actor = ACTOR_IOTHREAD;
    for (int i = 0; i < SLOTS; i++)
        loop->slots[i].fd = -1;
    loop->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    loop->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    struct epoll_event wake = {.events = EPOLLIN, .data.u64 = WAKE_UP};
    if (loop->epoll_fd < 0 || loop->wake_fd < 0 || epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, loop->wake_fd, &wake)) {
        int error = errno;
        lk_loop_free(loop);
        errno = error;
        return NULL;
    }
    if (!machine->loop)
        machine->loop = loop; /* the iothread's, for devices that ask to be watched; a backend's comes later */
    return loop;
}

/* Stops the iothread first; a handler that runs is waited for. */
void lk_loop_free(lk_loop *loop)
{
    if (!loop)
        return;
    if (loop->started) {
        store_release(&loop->stop, 1);
        loop_wake(loop);
        gates_loop_ends(loop->machine->gates, loop->actor);
        if (load_relaxed(&loop->machine->guarded))
            gates_want(loop->machine->gates, WANTS_LOOP_GONE, &loop->gone, 1);
        pthread_join(loop->thread, NULL);
    }
    if (loop->machine->loop == loop)
        loop->machine->loop = NULL;
    if (loop->epoll_fd >= 0)
        close(loop->epoll_fd);
    if (loop->wake_fd >= 0)
        close(loop->wake_fd);
    free(loop);
}

void loop_act_as(lk_loop *loop, uint16_t actor)
{
    loop->actor = actor;
}

/* A host notifier: test-and-clear, then run the queue. */
static void host_notifier_ready(void *device, unsigned queue)
{
    if (lk_notifier_take(device, queue, RUN_IOTHREAD))
        lk_queue_run(device, queue, RUN_IOTHREAD);
}

int loop_watch(lk_loop *loop, void *who, unsigned queue, int fd, loop_ready *ready)
{
    unsigned slot = 0;
    while (slot < SLOTS && loop->slots[slot].fd >= 0)
        slot++;
    if (slot == SLOTS)
        return -ENOSPC;
    handler *entry = &loop->slots[slot];
    entry->generation++;
    struct epoll_event event = {.events = EPOLLIN, .data.u64 = ticket(slot, entry->generation)};
    if (epoll_ctl(loop->epoll_fd, EPOLL_CTL_ADD, fd, &event))
        return -errno;
    entry->fd = fd;
    entry->who = who;
    entry->queue = queue;
    entry->ready = ready;
    return 0;
}

static handler *handler_of(lk_loop *loop, int fd)
{
    for (unsigned slot = 0; fd >= 0 && slot < SLOTS; slot++) /* an empty slot has -1 */
        if (loop->slots[slot].fd == fd)
            return &loop->slots[slot];
    return NULL;
}

int loop_forget(lk_loop *loop, int fd)
{
    handler *entry = handler_of(loop, fd);
    if (!entry)
        return -ENOENT;
    entry->fd = -1;
    entry->generation++;
    return epoll_ctl(loop->epoll_fd, EPOLL_CTL_DEL, fd, NULL) ? -errno : 0;
}

static uint32_t wrong_with(const handler *entry)
{
    return entry->ready == host_notifier_ready ? ((const lk_device *)entry->who)->mutations : 0;
}

/* 19 of the museum: with the big lock, for a handler that may want it. In a schedule that is seen, and ends it; without
 * one the wait ends by itself after a while. */
static void wait_for_handler(lk_loop *loop)
{
    if (load_relaxed(&loop->machine->guarded)) {
        gates_want(loop->machine->gates, WANTS_HANDLER_DONE, &loop->handles, 0);
        return;
    }
    const struct timespec a_while = {.tv_nsec = 1000000};
    for (int i = 0; i < MUSEUM_WAIT_MS && load_acquire(&loop->handles); i++)
        clock_nanosleep(CLOCK_MONOTONIC, 0, &a_while, NULL);
}

/* A host notifier, and its being let go. Both under the big lock; both return 0 or -errno. */
int lk_loop_attach(lk_loop *loop, lk_device *device, unsigned queue, int fd)
{
    int result = loop_watch(loop, device, queue, fd, host_notifier_ready);
    if (!result)
        lk_feed_emit(loop->machine->feed, EV_ATTACH, (int)queue, (uint64_t)fd, 0, 0, 0, 0);
    return result;
}

int lk_loop_detach(lk_loop *loop, int fd)
{
    const handler *entry = handler_of(loop, fd);
    if (entry)
        lk_feed_emit(loop->machine->feed, EV_DETACH, (int)entry->queue, (uint64_t)fd, 0, 0, 0, 0);
    if (entry && __builtin_expect(wrong_with(entry) & MUTATE_STOP_WAITS, 0))
        wait_for_handler(loop);
    return loop_forget(loop, fd);
}

/* 22 of the museum: the event is taken before the lock, and what was taken is handled, whatever became of its queue. */
static void handle_what_was_taken(lk_loop *loop, handler taken)
{
    uint64_t count = lk_notifier_take(taken.who, taken.queue, RUN_IOTHREAD);
    lk_lock_take(loop->machine);
    if (count)
        lk_queue_run(taken.who, taken.queue, RUN_IOTHREAD);
    lk_lock_release(loop->machine);
}

/* One fd that was ready, as one step under the big lock. */
static void handle(lk_loop *loop, uint64_t which)
{
    handler *entry = &loop->slots[which >> 32 & (SLOTS - 1)];
    if (__builtin_expect(wrong_with(entry) & MUTATE_NO_GENERATION, 0)) {
        handle_what_was_taken(loop, *entry);
        return;
    }
    lk_lock_take(loop->machine);
    if (entry->fd >= 0 && entry->generation == (uint32_t)which)
        entry->ready(entry->who, entry->queue);
    lk_lock_release(loop->machine);
}

/* In a schedule. 1: it is its turn. */
static int waits_its_turn(lk_loop *loop)
{
    uint64_t value;
    (void)!read(loop->wake_fd, &value, sizeof value);
    return gates_idle(loop->machine->gates, loop->epoll_fd);
}

/* Somebody may want to hold it here, before it looks. */
static void told_woken(lk_loop *loop, const struct epoll_event *ready, int count)
{
    uint64_t fds = 0;
    for (int i = 0; i < count; i++)
        fds += ready[i].data.u64 != WAKE_UP;
    if (fds)
        lk_feed_emit(loop->machine->feed, EV_WOKEN, -1, fds, 0, 0, 0, 0);
}

void loop_wake(lk_loop *loop)
{
    const uint64_t one = 1;
    (void)!write(loop->wake_fd, &one, sizeof one);
}

static void *iothread(void *argument)
{
    lk_loop *loop = argument;
    struct epoll_event ready[16];
    lk_set_actor(loop->actor);
    while (!load_acquire(&loop->stop)) {
        int looks = load_relaxed(&loop->machine->guarded) && waits_its_turn(loop);
        if (load_acquire(&loop->stop))
            break;
        int count = epoll_wait(loop->epoll_fd, ready, 16, looks ? 0 : -1);
        if (count < 0 && errno != EINTR)
            break; /* the epoll itself is gone: better no iothread than one that spins */
        store_relaxed(&loop->wakeups, loop->wakeups + 1);
        store_release(&loop->handles, count > 0);
        if (__builtin_expect(load_relaxed(&loop->machine->guarded), 0))
            told_woken(loop, ready, count);
        for (int i = 0; i < count; i++)
            if (ready[i].data.u64 != WAKE_UP)
                handle(loop, ready[i].data.u64);
        store_release(&loop->handles, 0);
    }
    gates_loop_gone(loop->machine->gates, &loop->gone);
    return NULL;
}

/* 0 or -errno. Signals are for other threads. */
int lk_loop_start(lk_loop *loop, const char *name)
{
    sigset_t all, before;
    sigfillset(&all);
    gates_loop(loop->machine->gates, loop->actor, loop);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&loop->thread, NULL, iothread, loop);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (error) {
        gates_loop(loop->machine->gates, loop->actor, NULL);
        return -error;
    }
    loop->started = 1;
    pthread_setname_np(loop->thread, name);
    return 0;
}

uint64_t lk_loop_wakeups(const lk_loop *loop)
{
    return load_relaxed(&loop->wakeups);
}
