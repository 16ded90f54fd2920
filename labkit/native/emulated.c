/* Whose turn is it? One thread executes all emulated vCPUs, each for `quantum` instructions, in the order of their indices.
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

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

uint64_t emulated_tsc(const lk_emulated *emulated)
{
    return now_ns() - emulated->born_ns;
}

uint64_t emulated_timer_ns(const lk_emulated *emulated)
{
    return emulated->executed * NS_PER_INSTRUCTION + emulated->slept_ns;
}

static void wake(lk_emulated *emulated)
{
    const uint64_t one = 1;
    (void)!write(emulated->wake_fd, &one, sizeof one);
}

/* -- what a vCPU is asked, and its parking (vcpu.h) -------------------------------------------------------------------- */

static emulated_cpu *own(lk_vcpu *vcpu)
{
    return vcpu->own;
}

static void let_in(lk_vcpu *vcpu, int may)
{
    (void)vcpu, (void)may; /* the thread looks before each turn */
}

static void fetch(lk_vcpu *vcpu)
{
    wake(own(vcpu)->emulated);
}

/* A step begins with a turn, whenever it was posted: so what it does, it does the same each time. A guest that parks in the
 * middle of a turn, or finds no step, reads the port again when it has its next turn: when there is a step for it. */
static uint32_t park(lk_vcpu *vcpu)
{
    lk_vcpu_sync *sync = vcpu->sync;
    emulated_cpu *cpu = own(vcpu);
    int begins = cpu->left + 1 == cpu->emulated->quantum;
    pthread_mutex_lock(&sync->mutex);
    vcpu_step_done(vcpu);
    uint32_t command = begins ? vcpu_take_step(vcpu) : CMD_NONE;
    sync->resting = cpu->parks = !command;
    pthread_mutex_unlock(&sync->mutex);
    return command;
}

/* As if it had not been executed. */
static void take_back_park(emulated_cpu *cpu)
{
    cpu->rip = cpu->at_port;
    cpu->left++;
    cpu->counts.exits--;
    cpu->counts.io_exits--;
}

/* -- one turn ------------------------------------------------------------------------------------------------------------ */

typedef enum { RUNS, RESTS, QUITS } turn;

static turn stopped(lk_vcpu_sync *sync, turn which)
{
    if (!sync->stopped) {
        sync->stopped = 1;
        pthread_cond_broadcast(&sync->changed);
    }
    return which;
}

/* What was asked of it. The mutex is held. */
static turn asked(const emulated_cpu *cpu)
{
    lk_vcpu_sync *sync = cpu->vcpu->sync;
    if (sync->asked == ASK_QUIT)
        return stopped(sync, QUITS);
    if (sync->asked != ASK_RUN || sync->dead)
        return stopped(sync, RESTS);
    sync->stopped = 0;
    if (sync->resting && !sync->command)
        return RESTS;
    sync->resting = 0;
    return RUNS;
}

static void crash(emulated_cpu *cpu, uint64_t reason, uint64_t detail)
{
    vcpu_crashed(cpu->vcpu, reason, detail);
    emulated_hand_up(cpu);
}

static turn look(emulated_cpu *cpu)
{
    lk_vcpu_sync *sync = cpu->vcpu->sync;
    int error = 0;
    pthread_mutex_lock(&sync->mutex);
    if (sync->load_count) {
        error = emulated_load(cpu);
        sync->load_count = 0;
        sync->resting = 0;
        sync->dead |= error != 0;
    }
    turn next = asked(cpu);
    pthread_mutex_unlock(&sync->mutex);
    if (error)
        crash(cpu, CRASH_REFUSED, (uint64_t)-error);
    return next;
}

/* INIT and SIPI, by which one vCPU starts another. */
static void take_events(emulated_cpu *cpu)
{
    uint8_t sipi_vector = 0;
    for (int event; (event = lk_irqchip_take_event(cpu->emulated->chip, (unsigned)cpu->vcpu->index, &sipi_vector));) {
        if (event == SENT_INIT)
            cpu->waits_for_sipi = 1;
        else if (event == SENT_SIPI && cpu->waits_for_sipi)
            emulated_start_up(cpu, sipi_vector);
    }
}

static int halts(const emulated_cpu *cpu)
{
    return cpu->waits_for_sipi ||
           (cpu->halted &&
            !(lk_irqchip_pending(cpu->emulated->chip, (unsigned)cpu->vcpu->index) && emulated_may_interrupt(cpu)));
}

/* Instructions until its turn ends; then what the last one left behind. */
static void execute(emulated_cpu *cpu, uint32_t instructions)
{
    cpu->left = instructions;
    cpu->stopping = 0;
    cpu->exception = NO_EXCEPTION;
    int error = unicorn.emu_start(cpu->cpu, cpu->rip, 0, 0, 0);
    cpu->rip = unicorn_read(cpu->cpu, unicorn.number.X86_REG_RIP);
    if (cpu->parks)
        take_back_park(cpu);
    cpu->counts.instructions += instructions - cpu->left;
    cpu->emulated->executed += instructions - cpu->left;
    if (cpu->exception != NO_EXCEPTION) {
        int crashes = emulated_exception(cpu, cpu->exception);
        if (crashes)
            crash(cpu, (uint64_t)crashes, (uint64_t)cpu->exception);
    } else if (error) {
        crash(cpu, CRASH_CANNOT_EXECUTE, (uint64_t)error);
    } else if (!cpu->stopping) { /* it stopped by itself */
        cpu->halted = 1;
        cpu->counts.exits++;
        cpu->counts.halt_exits++;
    }
}

/* One that may not be taken yet is looked at before each instruction: the guest's window may be a short one. */
static void interrupt(emulated_cpu *cpu)
{
    unsigned index = (unsigned)cpu->vcpu->index;
    lk_irqchip_set_time(cpu->emulated->chip, emulated_timer_ns(cpu->emulated));
    cpu->interrupted = lk_irqchip_pending(cpu->emulated->chip, index);
    if (!cpu->interrupted || !emulated_may_interrupt(cpu))
        return;
    cpu->interrupted = 0;
    int vector = lk_irqchip_accept(cpu->emulated->chip, index);
    int crashes = vector < 0 ? 0 : emulated_interrupt(cpu, vector);
    if (crashes)
        crash(cpu, (uint64_t)crashes, (uint64_t)vector);
}

/* One part of a turn: up to an exit or to its end. Returns how many instructions it took. */
static uint32_t part_of_turn(emulated_cpu *cpu, uint32_t left)
{
    interrupt(cpu);
    if (load_relaxed(&cpu->vcpu->sync->dead))
        return left;
    execute(cpu, left);
    return left - cpu->left;
}

/* -- everybody's turn ---------------------------------------------------------------------------------------------------- */

/* Has an interrupt come, or was anything asked? Only devices outside the machine can send a message without being heard
 * here: theirs wait for the end of the turn. */
int emulated_has_news(const emulated_cpu *cpu)
{
    const lk_emulated *emulated = cpu->emulated;
    const lk_vcpu_sync *sync = cpu->vcpu->sync;
    return load_acquire(&emulated->machine->messages) != emulated->messages_seen ||
           load_acquire(&emulated->lines) != emulated->lines_seen || load_relaxed(&sync->asked) != ASK_RUN ||
           load_relaxed(&sync->resting) || load_acquire(&sync->load_count) || load_relaxed(&sync->dead);
}

/* Levels and messages that came since the last look; sleeps at most that long for one. */
static void listen(lk_emulated *emulated, int timeout_ms)
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

/* A whole turn, in parts, for every exit ends one: `quantum` instructions, or fewer if it halts, parks or is stopped. */
static turn take_turn(emulated_cpu *cpu, int *executed)
{
    turn next = look(cpu);
    uint32_t left = cpu->emulated->quantum;
    int ran = 0;
    cpu->parks = 0;
    lk_set_actor((uint16_t)(ACTOR_VCPU0 + cpu->vcpu->index));
    take_events(cpu);
    while (next == RUNS && left && !cpu->parks && !halts(cpu)) {
        ran = 1;
        left -= part_of_turn(cpu, left);
        if (!emulated_has_news(cpu))
            continue;
        listen(cpu->emulated, 0);
        next = look(cpu);
    }
    *executed |= ran;
    return next;
}

/* Nobody could do anything. The timers' clock runs on while a vCPU halts; a parked guest's does not. */
static void sleep_until_wanted(lk_emulated *emulated)
{
    int halted = 0, timeout_ms = -1;
    for (unsigned i = 0; i < emulated->vcpus; i++)
        halted |= emulated->cpus[i].halted && load_relaxed(&emulated->cpus[i].vcpu->sync->asked) == ASK_RUN;
    uint64_t now = emulated_timer_ns(emulated), next = lk_irqchip_next_timer(emulated->chip), start = now_ns();
    if (halted && next != NO_TIMER)
        timeout_ms = next <= now ? 0 : next - now > INT32_MAX ? -1 : (int)((next - now + NS_PER_MS - 1) / NS_PER_MS);
    listen(emulated, timeout_ms);
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
        listen(emulated, 0);
        for (unsigned i = 0; i < emulated->vcpus; i++) {
            quitting += take_turn(&emulated->cpus[i], &ran) == QUITS;
        }
        if (!ran && !emulated->woken && quitting < emulated->vcpus)
            sleep_until_wanted(emulated);
    }
}

/* While it is held no vCPU executes anything; returns when that is so. The thread is running. */
void lk_emulated_hold(lk_emulated *emulated, int hold)
{
    pthread_mutex_lock(&emulated->mutex);
    store_release(&emulated->hold, hold);
    if (hold)
        wake(emulated);
    else
        pthread_cond_broadcast(&emulated->changed);
    while (hold && !emulated->held)
        pthread_cond_wait(&emulated->changed, &emulated->mutex);
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
    wake(emulated);
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
    static const lk_vcpu_ops ops = {let_in, fetch, park};
    emulated_cpu *cpu = &emulated->cpus[index];
    cpu->emulated = emulated;
    cpu->exception = NO_EXCEPTION;
    cpu->vcpu = vcpu_new(emulated->machine, (int)index, &ops);
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
    pthread_cond_init(&emulated->changed, NULL);
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
