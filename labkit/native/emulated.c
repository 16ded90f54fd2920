/* Whose turn is it? One thread executes all emulated vCPUs, each for `quantum` instructions, in the order of their indices
 * (emulated_turn.c has one turn).
 *
 * So a LOCK prefix needs no atomic instruction, and a run is the same to the instruction each time, as far as nothing
 * comes from outside: a completion by the iothread comes when it comes. The timers of the guest count instructions and
 * the time in which it halts; only its TSC tells real time. When no vCPU can go on, the thread sleeps in epoll, where
 * everybody who wants something of it is heard: the eventfds of the vectors, and one for all the rest. */
#include "emulated.h"
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <time.h>

#define NS_PER_INSTRUCTION 25 /* of the timers' clock: roughly what one takes */
#define WAKE_UP UINT64_MAX
#define NS_PER_MS 1000000u
#define NS_PER_S 1000000000u

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * NS_PER_S + (uint64_t)now.tv_nsec;
}

static struct timespec time_in(int ms)
{
    uint64_t then = now_ns() + (uint64_t)ms * NS_PER_MS;
    return (struct timespec){.tv_sec = (time_t)(then / NS_PER_S), .tv_nsec = (long)(then % NS_PER_S)};
}

uint64_t emulated_tsc(const lk_emulated *emulated)
{
    return now_ns() - emulated->born_ns;
}

uint64_t emulated_timer_ns(const lk_emulated *emulated)
{
    return emulated->executed * NS_PER_INSTRUCTION + emulated->slept_ns;
}

/* Its thread is to look at what was asked. */
void emulated_wake(lk_emulated *emulated)
{
    const uint64_t one = 1;
    (void)!write(emulated->wake_fd, &one, sizeof one);
}

/* -- everybody's turn ---------------------------------------------------------------------------------------------------- */

/* Levels and messages that came since the last look; sleeps at most that long for one. */
void emulated_listen(lk_emulated *emulated, int timeout_ms)
{
    struct epoll_event events[16];
    int count;
    emulated->messages_seen = load_acquire(&emulated->machine->messages);
    do {
        count = epoll_wait(emulated->epoll_fd, events, 16, timeout_ms);
        for (int i = 0; i < count; i++) {
            uint64_t woken;
            if (events[i].data.u64 == WAKE_UP) {
                (void)!read(emulated->wake_fd, &woken, sizeof woken);
                emulated->woken = 1;
                continue;
            }
            pthread_mutex_lock(&emulated->mutex);
            message sent = emulated->messages[events[i].data.u64 % MSIX_VECTORS_MAX];
            pthread_mutex_unlock(&emulated->mutex);
            lk_irqchip_message(emulated->chip, sent.address, sent.data);
        }
        timeout_ms = 0;
    } while (count == 16);
    uint32_t lines = load_acquire(&emulated->lines), changed = lines ^ emulated->lines_seen;
    for (unsigned pin = 0; changed >> pin; pin++)
        if (changed >> pin & 1)
            lk_irqchip_line(emulated->chip, pin, lines >> pin & 1);
    emulated->lines_seen = lines;
}

/* Rounded up; of a time that is longer than epoll can sleep, the part that it can. */
static int milliseconds(uint64_t ns)
{
    uint64_t ms = ns / NS_PER_MS + 1;
    return ms > INT32_MAX ? INT32_MAX : (int)ms;
}

/* Nobody could do anything. The timers' clock runs on while a vCPU halts; a parked guest's does not. */
static void sleep_until_wanted(lk_emulated *emulated)
{
    int halted = 0, timeout_ms = -1;
    for (unsigned i = 0; i < emulated->vcpus; i++)
        halted |= emulated->cpus[i].halted && load_relaxed(&emulated->cpus[i].vcpu->sync->asked) == ASK_RUN;
    uint64_t now = emulated_timer_ns(emulated), next = lk_irqchip_next_timer(emulated->chip), start = now_ns();
    if (halted && next != NO_TIMER)
        timeout_ms = next <= now ? 0 : milliseconds(next - now);
    emulated_listen(emulated, timeout_ms);
    if (halted)
        emulated->slept_ns += now_ns() - start;
    lk_irqchip_set_time(emulated->chip, emulated_timer_ns(emulated));
}

/* Somebody wants to change several things as one. */
static void stand_still(lk_emulated *emulated)
{
    pthread_mutex_lock(&emulated->mutex);
    while (emulated->hold) {
        emulated->held = 1;
        pthread_cond_broadcast(&emulated->changed);
        pthread_cond_wait(&emulated->changed, &emulated->mutex);
    }
    emulated->held = 0;
    pthread_mutex_unlock(&emulated->mutex);
}

/* The life of the thread. `python` is what lk_python_exit gets. */
void lk_emulated_run(lk_emulated *emulated, void *python)
{
    unsigned quitting = 0;
    emulated->python = python;
    while (quitting < emulated->vcpus) {
        int ran = 0;
        quitting = 0;
        emulated->woken = 0; /* whoever wakes from here on is looked at in the next round */
        if (load_acquire(&emulated->hold))
            stand_still(emulated);
        emulated_listen(emulated, 0);
        for (unsigned i = 0; i < emulated->vcpus; i++)
            quitting += emulated_turn(&emulated->cpus[i], &ran) == QUITS;
        if (!ran && !emulated->woken && quitting < emulated->vcpus)
            sleep_until_wanted(emulated);
    }
}

/* While it is held no vCPU executes anything. 1 when that is so; 0: not within the time, and nothing is held. */
int lk_emulated_hold(lk_emulated *emulated, int timeout_ms)
{
    struct timespec until = time_in(timeout_ms);
    pthread_mutex_lock(&emulated->mutex);
    store_release(&emulated->hold, 1);
    emulated_wake(emulated);
    while (!emulated->held && pthread_cond_timedwait(&emulated->changed, &emulated->mutex, &until) != ETIMEDOUT)
        ;
    int held = emulated->held;
    emulated->hold = held;
    pthread_mutex_unlock(&emulated->mutex);
    return held;
}

void lk_emulated_let_go(lk_emulated *emulated)
{
    pthread_mutex_lock(&emulated->mutex);
    store_release(&emulated->hold, 0);
    pthread_cond_broadcast(&emulated->changed);
    pthread_mutex_unlock(&emulated->mutex);
}

/* -- interrupts ------------------------------------------------------------------------------------------------------------ */

/* From any thread. */
static void set_line(void *lines, int fd, unsigned pin, int high)
{
    lk_emulated *emulated = lines;
    (void)fd;
    if (high)
        __atomic_fetch_or(&emulated->lines, UINT32_C(1) << pin, __ATOMIC_RELEASE);
    else
        __atomic_fetch_and(&emulated->lines, ~(UINT32_C(1) << pin), __ATOMIC_RELEASE);
    emulated_wake(emulated);
}

/* A write to the eventfd sends message `vector`, until the fd is closed. It is never read: each write is an edge. */
int lk_emulated_bind(lk_emulated *emulated, unsigned vector, int fd)
{
    struct epoll_event event = {.events = EPOLLIN | EPOLLET, .data.u64 = vector};
    if (vector >= MSIX_VECTORS_MAX)
        return -EINVAL;
    return epoll_ctl(emulated->epoll_fd, EPOLL_CTL_ADD, fd, &event) ? -errno : 0;
}

int lk_emulated_route(lk_emulated *emulated, unsigned count, const uint64_t *addresses, const uint32_t *data)
{
    if (count > MSIX_VECTORS_MAX)
        return -EINVAL;
    pthread_mutex_lock(&emulated->mutex);
    for (unsigned i = 0; i < count; i++)
        emulated->messages[i] = (message){addresses[i], data[i]};
    pthread_mutex_unlock(&emulated->mutex);
    return 0;
}

/* The vCPUs are stopped. */
void lk_emulated_power_on(lk_emulated *emulated)
{
    lk_irqchip_reset(emulated->chip);
    emulated->lines_seen = 0;
}

/* -- its clocks, as a state -------------------------------------------------------------------------------------------- */

/* Messages that were sent are in the interrupt controllers from here on. */
void lk_emulated_save_clocks(lk_emulated *emulated, lk_emulated_clocks *out)
{
    emulated_listen(emulated, 0);
    *out = (lk_emulated_clocks){emulated_tsc(emulated), emulated->executed, emulated->slept_ns, emulated->lines_seen};
}

/* What was sent to the guest before is taken from the eventfds, and forgotten when the controllers are loaded after this. */
void lk_emulated_load_clocks(lk_emulated *emulated, const lk_emulated_clocks *clocks)
{
    emulated_listen(emulated, 0);
    emulated->born_ns = now_ns() - clocks->tsc_ns;
    emulated->executed = clocks->executed;
    emulated->slept_ns = clocks->slept_ns;
    emulated->lines_seen = (uint32_t)clocks->lines & ((UINT32_C(1) << IOAPIC_PINS) - 1);
}

/* -- from creation to the end ----------------------------------------------------------------------------------------------- */

lk_vcpu *lk_emulated_vcpu(lk_emulated *emulated, unsigned index)
{
    return emulated->cpus[index % VCPUS_MAX].vcpu;
}

void lk_emulated_counts_of(const lk_emulated *emulated, unsigned index, lk_emulated_counts *out)
{
    *out = emulated->cpus[index % VCPUS_MAX].counts;
}

static int make_cpu(lk_emulated *emulated, unsigned index)
{
    emulated_cpu *cpu = &emulated->cpus[index];
    cpu->emulated = emulated;
    cpu->exception = NO_EXCEPTION;
    cpu->vcpu = vcpu_new(emulated->machine, (int)index, emulated_ops());
    cpu->cpu = unicorn_open();
    if (!cpu->vcpu || !cpu->cpu)
        return -ENOMEM;
    cpu->vcpu->own = cpu;
    int failed = emulated_cpu_set_up(cpu);
    return failed ? failed : emulated_io_set_up(cpu);
}

static int make(lk_emulated *emulated, int full_irqchip)
{
    struct epoll_event wakes = {.events = EPOLLIN, .data.u64 = WAKE_UP};
    emulated->epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    emulated->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    emulated->chip = lk_irqchip_new(emulated->vcpus, full_irqchip);
    if (emulated->epoll_fd < 0 || emulated->wake_fd < 0 || !emulated->chip ||
        epoll_ctl(emulated->epoll_fd, EPOLL_CTL_ADD, emulated->wake_fd, &wakes))
        return -errno;
    if (full_irqchip) {
        emulated->machine->lines = emulated;
        emulated->machine->set_line = set_line;
    }
    for (unsigned i = 0; i < emulated->vcpus; i++) {
        int failed = make_cpu(emulated, i);
        if (failed)
            return failed;
    }
    return 0;
}

/* NULL and errno. lk_unicorn_load was called before. */
lk_emulated *lk_emulated_new(lk_machine *machine, unsigned vcpus, int full_irqchip, uint32_t quantum)
{
    lk_emulated *emulated = calloc(1, sizeof *emulated);
    if (!emulated)
        return NULL;
    emulated->machine = machine;
    emulated->vcpus = vcpus;
    emulated->quantum = quantum;
    emulated->born_ns = now_ns();
    emulated->epoll_fd = emulated->wake_fd = -1;
    pthread_mutex_init(&emulated->mutex, NULL);
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&emulated->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    int failed = make(emulated, full_irqchip);
    if (failed) {
        lk_emulated_free(emulated);
        errno = -failed;
        return NULL;
    }
    return emulated;
}

/* Its thread is gone by then. */
void lk_emulated_free(lk_emulated *emulated)
{
    if (!emulated)
        return;
    for (unsigned i = 0; i < emulated->vcpus; i++) {
        emulated_cpu_free(&emulated->cpus[i]);
        lk_vcpu_free(emulated->cpus[i].vcpu);
    }
    while (emulated->kick_count)
        close(emulated->kicks[--emulated->kick_count].fd);
    if (emulated->machine->lines == emulated) {
        emulated->machine->set_line = NULL;
        emulated->machine->lines = NULL;
    }
    lk_irqchip_free(emulated->chip);
    if (emulated->epoll_fd >= 0)
        close(emulated->epoll_fd);
    if (emulated->wake_fd >= 0)
        close(emulated->wake_fd);
    pthread_cond_destroy(&emulated->changed);
    pthread_mutex_destroy(&emulated->mutex);
    free(emulated);
}
