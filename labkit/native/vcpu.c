/* What is asked of a vCPU, and what it answers, whoever executes its guest: stop, go on, quit, load a state; do a step.
 *
 * And what is served per exit, here as well for every back end: a write to QUEUE_NOTIFY (the trap path of a kick), the
 * console port, the park port. Every other access is handed up to Python as an lk_exit. */
#include "gates.h"
#include "vcpu.h"
#include <time.h>

#define LOOK_NS 100000

lk_vcpu *vcpu_new(lk_machine *machine, int index, const lk_vcpu_ops *ops)
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
    *vcpu = (lk_vcpu){.machine = machine, .index = index, .fd = -1, .ops = ops, .sync = sync};
    gates_vcpu(machine->gates, (unsigned)index, vcpu);
    return vcpu;
}

void lk_vcpu_free(lk_vcpu *vcpu)
{
    if (!vcpu)
        return;
    gates_vcpu(vcpu->machine->gates, (unsigned)vcpu->index, NULL);
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
void vcpu_keep_out_or_let_in(lk_vcpu *vcpu)
{
    const lk_vcpu_sync *sync = vcpu->sync;
    vcpu->ops->let_in(vcpu, sync->asked == ASK_RUN && !sync->load_count && !sync->dead);
}

/* What was said concerns the vCPU's thread, wherever it is. Releases the mutex first, which it would only wait for. */
static void unlock_and_wake(lk_vcpu *vcpu)
{
    vcpu->ops->fetch(vcpu);
    pthread_mutex_unlock(&vcpu->sync->mutex);
    pthread_cond_broadcast(&vcpu->sync->changed);
}

static void ask(lk_vcpu *vcpu, int what)
{
    lk_vcpu_sync *sync = vcpu->sync;
    pthread_mutex_lock(&sync->mutex);
    int is_so = what == ASK_SETTLE && sync->asked == what && sync->stopped && !sync->load_count;
    if (is_so) { /* nobody is to be woken for it */
        pthread_mutex_unlock(&sync->mutex);
        return;
    }
    if (sync->asked != ASK_QUIT)
        store_release(&sync->asked, what);
    vcpu_keep_out_or_let_in(vcpu);
    sync->stopped = sync->asked == ASK_STOP && (sync->stopped || sync->resting);
    int asleep = sync->resting && sync->asked <= ASK_STOP && !sync->load_count && !sync->command;
    if (asleep)
        pthread_mutex_unlock(&sync->mutex);
    else
        unlock_and_wake(vcpu);
}

void lk_vcpu_ask(lk_vcpu *vcpu, int what)
{
    int tell = what == ASK_RUN && load_relaxed(&vcpu->machine->guarded);
    if (tell)
        gates_runs(vcpu->machine->gates, vcpu, load_acquire(&vcpu->sync->load_count) != 0);
    ask(vcpu, what);
    if (tell)
        gates_asked(vcpu->machine->gates);
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
    vcpu_keep_out_or_let_in(vcpu);
    pthread_mutex_unlock(&sync->mutex);
}

int lk_vcpu_wait_stopped(lk_vcpu *vcpu, int timeout_ms)
{
    if (load_relaxed(&vcpu->machine->guarded) && load_acquire(&vcpu->sync->busy) && !load_acquire(&vcpu->sync->stopped))
        gates_want(vcpu->machine->gates, WANTS_VCPU_OUT, &vcpu->sync->stopped, 1);
    pthread_mutex_lock(&vcpu->sync->mutex);
    int stopped = wait_for(vcpu->sync, &vcpu->sync->stopped, timeout_ms);
    pthread_mutex_unlock(&vcpu->sync->mutex);
    return stopped;
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
    if (result) {
        pthread_mutex_unlock(&sync->mutex);
        return result;
    }
    sync->command = command;
    sync->idle = 0;
    unlock_and_wake(vcpu);
    return 0;
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

/* The guest reads PORT_PARK: its last step is done. The mutex is held. */
void vcpu_step_done(lk_vcpu *vcpu)
{
    lk_vcpu_sync *sync = vcpu->sync;
    sync->busy = 0;
    sync->idle = !sync->command;
    pthread_cond_broadcast(&sync->changed);
}

/* A schedule may give it its next step at once. */
void vcpu_tell_parked(lk_vcpu *vcpu)
{
    lk_vcpu_sync *sync = vcpu->sync;
    if (!load_relaxed(&vcpu->machine->guarded) || !sync->idle)
        return;
    pthread_mutex_unlock(&sync->mutex);
    gates_parked(vcpu->machine->gates, vcpu);
    pthread_mutex_lock(&sync->mutex);
}

void vcpu_tell_stopped(lk_vcpu *vcpu)
{
    lk_vcpu_sync *sync = vcpu->sync;
    if (!load_relaxed(&vcpu->machine->guarded))
        return;
    pthread_mutex_unlock(&sync->mutex);
    gates_stopped(vcpu->machine->gates, vcpu);
    pthread_mutex_lock(&sync->mutex);
}

/* What was asked of it may be something else when it is its turn. */
void vcpu_tell_enters(lk_vcpu *vcpu)
{
    lk_vcpu_sync *sync = vcpu->sync;
    if (!load_relaxed(&vcpu->machine->guarded))
        return;
    pthread_mutex_unlock(&sync->mutex);
    gates_enter(vcpu->machine->gates, vcpu);
    pthread_mutex_lock(&sync->mutex);
}

int vcpu_may_run(const lk_vcpu *vcpu)
{
    return load_acquire(&vcpu->sync->asked) == ASK_RUN;
}

int vcpu_shares_thread(const lk_vcpu *vcpu)
{
    return vcpu->ops->one_thread;
}

/* What the guest finds there: the step that was posted; CMD_NONE while the thread is wanted elsewhere, or the step would
 * go to a guest that is gone. The mutex is held. */
uint32_t vcpu_take_step(lk_vcpu *vcpu)
{
    lk_vcpu_sync *sync = vcpu->sync;
    uint32_t command = sync->asked == ASK_RUN && !sync->load_count ? sync->command : CMD_NONE;
    if (command) {
        sync->command = 0;
        sync->busy = 1;
    }
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
int vcpu_served_port(lk_vcpu *vcpu, lk_exit *left)
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
        uint32_t command = vcpu->ops->park(vcpu);
        memcpy(left->data, &command, sizeof command);
        return 1;
    }
    return 0;
}

int vcpu_crashed(lk_vcpu *vcpu, uint64_t reason, uint64_t detail)
{
    vcpu->exit = (lk_exit){.kind = LEFT_CRASH, .reason = reason, .detail = detail};
    return LEFT_CRASH;
}
