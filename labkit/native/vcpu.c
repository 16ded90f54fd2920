/* One vCPU thread: enter the guest, serve what is served per kick, hand everything else up to Python.
 *
 * Served here: a write to QUEUE_NOTIFY (the trap path of a kick), the console port, the park port.
 * Handed up as an lk_exit: every other port and MMIO access (registers, PCI), and the end of the guest. */
#include "core.h"
#include <linux/kvm.h>
#include <signal.h>
#include <time.h>

#define LOOK_NS 100000

/* Guards what the vCPU thread and the others say to each other. Taken after the big lock, never before it. */
struct lk_vcpu_sync {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    pthread_t thread;
    int inside; /* the thread is in lk_vcpu_run: a signal reaches it */
    int asked; /* ASK_* */
    int stopped;
    int dead; /* the guest is gone: nobody will park again */
    uint32_t command; /* posted, not yet taken */
    int busy; /* a step was taken and the guest has not parked since */
    int idle; /* the guest parked and has nothing to do */
    int resting; /* the thread sleeps in park(): it is out of the guest, with its I/O half done */
    const lk_load *loads; /* state to be loaded before the guest is entered again */
    unsigned load_count;
};

static struct kvm_run *run_page(lk_vcpu *vcpu)
{
    return vcpu->run_page;
}

static int come_out_signal(void)
{
    return SIGRTMIN + 5;
}

static void on_signal(int number)
{
    (void)number; /* its only work is to interrupt KVM_RUN */
}

/* 0, or -EBUSY if somebody else in the process uses the signal. */
int lk_install_signal(void)
{
    struct sigaction old, ours = {.sa_handler = on_signal};
    sigaction(come_out_signal(), NULL, &old);
    if (old.sa_handler == on_signal)
        return 0;
    if (old.sa_handler != SIG_DFL)
        return -EBUSY;
    return sigaction(come_out_signal(), &ours, NULL) ? -errno : 0;
}

lk_vcpu *lk_vcpu_new(lk_machine *machine, int index, int fd, void *page)
{
    pthread_condattr_t attributes;
    lk_vcpu *vcpu = calloc(1, sizeof *vcpu);
    lk_vcpu_sync *sync = calloc(1, sizeof *sync);
    if (!vcpu || !sync) {
        free(vcpu);
        free(sync);
        return NULL;
    }
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&sync->changed, &attributes);
    pthread_condattr_destroy(&attributes);
    pthread_mutex_init(&sync->mutex, NULL);
    sync->asked = ASK_STOP;
    *vcpu = (lk_vcpu){.machine = machine, .index = index, .fd = fd, .run_page = page, .sync = sync};
    run_page(vcpu)->immediate_exit = 1;
    return vcpu;
}

void lk_vcpu_free(lk_vcpu *vcpu)
{
    if (!vcpu)
        return;
    pthread_cond_destroy(&vcpu->sync->changed);
    pthread_mutex_destroy(&vcpu->sync->mutex);
    free(vcpu->sync);
    free(vcpu);
}

/* Waits on the vCPU's condition until `done` is set or the time is over. The mutex is held. */
static int wait_for(lk_vcpu_sync *sync, const int *flag, int timeout_ms)
{
    struct timespec until;
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += timeout_ms / 1000;
    until.tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (until.tv_nsec >= 1000000000) {
        until.tv_sec++;
        until.tv_nsec -= 1000000000;
    }
    while (!*flag)
        if (pthread_cond_timedwait(&sync->changed, &sync->mutex, &until) == ETIMEDOUT)
            return *flag;
    return 1;
}

/* The guest is not entered while the thread is asked to stay out, while its state waits to be loaded, or when it is gone.
 * Whoever changes one of these says so here, under the mutex. */
static void keep_out_or_let_in(lk_vcpu *vcpu)
{
    lk_vcpu_sync *sync = vcpu->sync;
    run_page(vcpu)->immediate_exit = sync->asked != ASK_RUN || sync->load_count || sync->dead;
}

/* immediate_exit catches a thread about to enter the guest, the signal one that is in it. */
void lk_vcpu_ask(lk_vcpu *vcpu, int what)
{
    lk_vcpu_sync *sync = vcpu->sync;
    pthread_mutex_lock(&sync->mutex);
    if (sync->asked != ASK_QUIT)
        store_release(&sync->asked, what);
    keep_out_or_let_in(vcpu);
    sync->stopped = sync->asked == ASK_STOP && (sync->stopped || sync->resting);
    int asleep = sync->resting && sync->asked <= ASK_STOP && !sync->load_count && !sync->command;
    if (!asleep)
        pthread_cond_broadcast(&sync->changed);
    if (!asleep && sync->asked != ASK_RUN && sync->inside)
        pthread_kill(sync->thread, come_out_signal());
    pthread_mutex_unlock(&sync->mutex);
}

/* The guest is gone: the vCPU is not entered again before lk_vcpu_load, and nobody waits for its step. */
void lk_vcpu_retire(lk_vcpu *vcpu)
{
    pthread_mutex_lock(&vcpu->sync->mutex);
    vcpu->sync->dead = vcpu->sync->idle = 1;
    pthread_cond_broadcast(&vcpu->sync->changed);
    pthread_mutex_unlock(&vcpu->sync->mutex);
    lk_vcpu_ask(vcpu, ASK_STOP);
}

/* A new beginning: what the guest was doing is forgotten, and its state is loaded when it is entered next. The vCPU is
 * stopped; loads and the structs they point to stay valid. */
void lk_vcpu_load(lk_vcpu *vcpu, const lk_load *loads, unsigned count)
{
    lk_vcpu_sync *sync = vcpu->sync;
    pthread_mutex_lock(&sync->mutex);
    sync->command = 0;
    sync->busy = sync->idle = sync->dead = 0;
    sync->loads = loads;
    store_release(&sync->load_count, count);
    keep_out_or_let_in(vcpu);
    pthread_mutex_unlock(&sync->mutex);
}

int lk_vcpu_wait_stopped(lk_vcpu *vcpu, int timeout_ms)
{
    pthread_mutex_lock(&vcpu->sync->mutex);
    int stopped = wait_for(vcpu->sync, &vcpu->sync->stopped, timeout_ms);
    pthread_mutex_unlock(&vcpu->sync->mutex);
    return stopped;
}

/* One sleep of a thread that is asked to stay out; whoever waits for that is told first. The mutex is held. */
static void sleep_stopped(lk_vcpu_sync *sync)
{
    if (!sync->stopped) {
        sync->stopped = 1;
        pthread_cond_broadcast(&sync->changed);
    }
    pthread_cond_wait(&sync->changed, &sync->mutex);
}

/* Out of the guest, with nothing half done: say so and wait. 1: go on running, 0: quit. */
static int stay_out(lk_vcpu *vcpu)
{
    lk_vcpu_sync *sync = vcpu->sync;
    pthread_mutex_lock(&sync->mutex);
    while (sync->asked != ASK_QUIT && (sync->asked != ASK_RUN || sync->dead))
        sleep_stopped(sync);
    int go_on = sync->asked == ASK_RUN;
    sync->stopped = !go_on;
    keep_out_or_let_in(vcpu);
    pthread_cond_broadcast(&sync->changed);
    pthread_mutex_unlock(&sync->mutex);
    return go_on;
}

/* -- steps: the host posts one, the guest takes it at PORT_PARK, and parking again says it is done ------------------ */

/* Is a step posted or under way? A guest that has not parked yet is not busy: it takes the step when it does. */
int lk_step_busy(lk_vcpu *vcpu)
{
    pthread_mutex_lock(&vcpu->sync->mutex);
    int busy = vcpu->sync->busy || vcpu->sync->command;
    pthread_mutex_unlock(&vcpu->sync->mutex);
    return busy;
}

/* 0, -EBUSY while a step is under way, -ESRCH when the guest is gone. */
int lk_step_post(lk_vcpu *vcpu, uint32_t command)
{
    lk_vcpu_sync *sync = vcpu->sync;
    pthread_mutex_lock(&sync->mutex);
    int result = sync->dead ? -ESRCH : sync->busy || sync->command ? -EBUSY : 0;
    if (!result) {
        sync->command = command;
        sync->idle = 0;
        pthread_cond_broadcast(&sync->changed);
    }
    pthread_mutex_unlock(&sync->mutex);
    return result;
}

/* Most steps are done sooner than a sleeping thread wakes up: look for a moment before going to sleep. */
static void look_for_idle(lk_vcpu_sync *sync)
{
    struct timespec start, now;
    clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        for (int i = 0; i < 64; i++)
            if (load_relaxed(&sync->idle))
                return;
        clock_gettime(CLOCK_MONOTONIC, &now);
    } while ((now.tv_sec - start.tv_sec) * 1000000000L + now.tv_nsec - start.tv_nsec < LOOK_NS);
}

/* 1: the guest is parked with nothing to do, 0: not within the time, -ESRCH: it is gone. */
int lk_step_wait(lk_vcpu *vcpu, int timeout_ms)
{
    lk_vcpu_sync *sync = vcpu->sync;
    if (timeout_ms)
        look_for_idle(sync);
    pthread_mutex_lock(&sync->mutex);
    int idle = wait_for(sync, &sync->idle, timeout_ms);
    int result = sync->dead ? -ESRCH : idle;
    pthread_mutex_unlock(&sync->mutex);
    return result;
}

/* The guest reads PORT_PARK: wait for a step. CMD_NONE when the thread is wanted elsewhere; the guest asks again. */
static uint32_t park(lk_vcpu *vcpu)
{
    lk_vcpu_sync *sync = vcpu->sync;
    pthread_mutex_lock(&sync->mutex);
    sync->busy = 0;
    sync->idle = !sync->command;
    pthread_cond_broadcast(&sync->changed);
    sync->resting = 1;
    for (;;) {
        if (sync->asked == ASK_STOP)
            sleep_stopped(sync);
        else if (sync->asked == ASK_RUN && !sync->command && !sync->load_count)
            pthread_cond_wait(&sync->changed, &sync->mutex);
        else
            break;
    }
    sync->resting = 0;
    int goes_on = sync->asked == ASK_RUN && !sync->load_count; /* or the step would go to a guest that is gone */
    uint32_t command = goes_on ? sync->command : CMD_NONE;
    if (command) {
        sync->command = 0;
        sync->busy = 1;
    }
    pthread_mutex_unlock(&sync->mutex);
    return command;
}

/* -- exits --------------------------------------------------------------------------------------------------------- */

static uint32_t item(const uint8_t *data, unsigned width)
{
    uint32_t value = 0;
    memcpy(&value, data, width <= sizeof value ? width : sizeof value);
    return value;
}

/* Writes to QUEUE_NOTIFY, one or as many as a string instruction has. A kick that may start the notifiers is left, with
 * those after it, for the rules to see, in Python. 1 if none is left. */
static int served_kicks(lk_device *device, lk_exit *left)
{
    for (; left->count; left->count--, left->data += left->width)
        if (lk_queue_trap(device, item(left->data, left->width), left->width, left->port) == TRAP_STARTS)
            return 0;
    return 1;
}

/* 1 if the access was served here. */
static int served_port(lk_vcpu *vcpu, lk_exit *left)
{
    lk_device *device = vcpu->device;
    if (left->write && device && left->port == load_relaxed(&device->notify_port) && left->port)
        return served_kicks(device, left);
    if (left->write && left->port == PORT_CONSOLE && left->width == 1) {
        lk_lock_take(vcpu->machine);
        lk_console_put(vcpu->machine, left->data, left->count);
        lk_lock_release(vcpu->machine);
        return 1;
    }
    if (!left->write && left->port == PORT_PARK && left->width == sizeof(uint32_t) && left->count == 1) {
        uint32_t command = park(vcpu);
        memcpy(left->data, &command, sizeof command);
        return 1;
    }
    return 0;
}

static int crashed(lk_vcpu *vcpu, uint64_t reason, uint64_t detail)
{
    vcpu->exit = (lk_exit){.kind = LEFT_CRASH, .reason = reason, .detail = detail};
    return LEFT_CRASH;
}

/* What KVM says, in words of no particular hypervisor. 0: served here, else LEFT_*. */
static int handle_exit(lk_vcpu *vcpu)
{
    struct kvm_run *run = run_page(vcpu);
    lk_exit *left = &vcpu->exit;
    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        *left = (lk_exit){.kind = LEFT_IO,
                          .write = run->io.direction == KVM_EXIT_IO_OUT,
                          .width = run->io.size,
                          .port = run->io.port,
                          .count = run->io.count,
                          .data = (uint8_t *)run + run->io.data_offset};
        return served_port(vcpu, left) ? 0 : LEFT_IO;
    case KVM_EXIT_MMIO:
        *left = (lk_exit){.kind = LEFT_MMIO,
                          .write = run->mmio.is_write,
                          .width = (uint8_t)run->mmio.len,
                          .count = 1,
                          .gpa = run->mmio.phys_addr,
                          .data = run->mmio.data};
        return LEFT_MMIO;
    case KVM_EXIT_INTR:
        return 0;
    case KVM_EXIT_FAIL_ENTRY:
        return crashed(vcpu, run->exit_reason, run->fail_entry.hardware_entry_failure_reason);
    case KVM_EXIT_INTERNAL_ERROR:
        return crashed(vcpu, run->exit_reason, run->internal.suberror);
    default:
        return crashed(vcpu, run->exit_reason, 0);
    }
}

/* Before anything is loaded KVM must complete the I/O that is half done, or it would write into the new registers; it
 * enters no guest meanwhile, for load_count keeps it out. 0 or -errno; tried once. */
static int load_state(lk_vcpu *vcpu)
{
    lk_vcpu_sync *sync = vcpu->sync;
    int error = 0;
    while (ioctl(vcpu->fd, KVM_RUN, 0) == 0)
        ; /* parts of the old guest's last instruction: nobody wants them */
    for (unsigned i = 0; i < sync->load_count && !error; i++)
        if (ioctl(vcpu->fd, sync->loads[i].request, sync->loads[i].state))
            error = -errno;
    pthread_mutex_lock(&sync->mutex);
    sync->load_count = 0;
    sync->dead |= error != 0; /* half loaded is not to be entered */
    keep_out_or_let_in(vcpu);
    pthread_mutex_unlock(&sync->mutex);
    return error;
}

static void set_inside(lk_vcpu *vcpu, int inside)
{
    pthread_mutex_lock(&vcpu->sync->mutex);
    vcpu->sync->thread = pthread_self();
    vcpu->sync->inside = inside;
    pthread_mutex_unlock(&vcpu->sync->mutex);
}

/* Asked to come out, the thread first enters once more with immediate_exit set: KVM completes a half-done I/O
 * instruction then, and the registers tell the truth. */
static int enter_until_left(lk_vcpu *vcpu)
{
    for (;;) {
        int error = load_acquire(&vcpu->sync->load_count) ? load_state(vcpu) : 0;
        if (error)
            return crashed(vcpu, (uint64_t)error, 0);
        int asked = load_acquire(&vcpu->sync->asked);
        if (load_relaxed(&vcpu->sync->dead)) { /* a crashed guest is not entered again before a reset */
            if (!stay_out(vcpu))
                return LEFT_QUIT;
            continue;
        }
        if (ioctl(vcpu->fd, KVM_RUN, 0) == 0) {
            int left = handle_exit(vcpu);
            if (left)
                return left;
        } else if (errno == EINTR || errno == EAGAIN) {
            if (asked != ASK_RUN && !stay_out(vcpu))
                return LEFT_QUIT;
        } else {
            return crashed(vcpu, (uint64_t)-errno, 0);
        }
    }
}

int lk_vcpu_run(lk_vcpu *vcpu)
{
    lk_set_actor((uint16_t)(ACTOR_VCPU0 + vcpu->index));
    set_inside(vcpu, 1);
    int left = enter_until_left(vcpu);
    set_inside(vcpu, 0);
    return left;
}
