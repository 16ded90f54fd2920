/* One vCPU thread on KVM: enter the guest, serve what is served per exit (vcpu.c), hand the rest up to Python. */
#include "gates.h"
#include "vcpu.h"
#include <linux/kvm.h>
#include <signal.h>

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
int lk_kvm_install_signal(void)
{
    struct sigaction old, ours = {.sa_handler = on_signal};
    sigaction(come_out_signal(), NULL, &old);
    if (old.sa_handler == on_signal)
        return 0;
    if (old.sa_handler != SIG_DFL)
        return -EBUSY;
    return sigaction(come_out_signal(), &ours, NULL) ? -errno : 0;
}

/* immediate_exit catches a thread about to enter the guest, the signal one that is in it. */
static void let_in(lk_vcpu *vcpu, int may)
{
    run_page(vcpu)->immediate_exit = !may;
}

/* A thread that rests in park() is woken otherwise. */
static void fetch(lk_vcpu *vcpu)
{
    if (vcpu->sync->asked != ASK_RUN && vcpu->sync->inside && !vcpu->sync->resting)
        pthread_kill(vcpu->sync->thread, come_out_signal());
}

/* One sleep of a thread that is asked to stay out; whoever waits for that is told first. The mutex is held. */
static int now_stopped(lk_vcpu_sync *sync)
{
    if (sync->stopped)
        return 0;
    sync->stopped = 1;
    pthread_cond_broadcast(&sync->changed);
    return 1;
}

static void sleep_stopped(lk_vcpu_sync *sync)
{
    now_stopped(sync);
    pthread_cond_wait(&sync->changed, &sync->mutex);
}

/* Waits for a step, in the middle of the guest's I/O instruction. The guest that is told CMD_NONE asks again. */
static uint32_t park(lk_vcpu *vcpu)
{
    lk_vcpu_sync *sync = vcpu->sync;
    pthread_mutex_lock(&sync->mutex);
    vcpu_step_done(vcpu);
    sync->resting = 1;
    vcpu_tell_parked(vcpu);
    for (;;) {
        if (sync->asked == ASK_STOP)
            sleep_stopped(sync);
        else if (sync->asked == ASK_RUN && !sync->command && !sync->load_count)
            pthread_cond_wait(&sync->changed, &sync->mutex);
        else
            break;
    }
    sync->resting = 0;
    uint32_t command = vcpu_take_step(vcpu);
    pthread_mutex_unlock(&sync->mutex);
    return command;
}

lk_vcpu *lk_kvm_vcpu_new(lk_machine *machine, int index, int fd, void *page)
{
    static const lk_vcpu_ops ops = {.let_in = let_in, .fetch = fetch, .park = park};
    lk_vcpu *vcpu = vcpu_new(machine, index, &ops);
    if (vcpu) {
        vcpu->fd = fd;
        vcpu->run_page = page;
        run_page(vcpu)->immediate_exit = 1;
    }
    return vcpu;
}

/* A state that was given to a vCPU is loaded when it runs, or before its registers are looked at. */
static int loads_first(const lk_vcpu_sync *sync)
{
    return sync->asked == ASK_SETTLE && sync->load_count;
}

static int must_stay_out(const lk_vcpu_sync *sync)
{
    return sync->asked != ASK_QUIT && (sync->asked != ASK_RUN || sync->dead) && !loads_first(sync);
}

/* Out of the guest, with nothing half done: say so and wait. 1: go on running or load, 0: quit. */
static int stay_out(lk_vcpu *vcpu)
{
    lk_vcpu_sync *sync = vcpu->sync;
    pthread_mutex_lock(&sync->mutex);
    do {
        while (must_stay_out(sync))
            if (now_stopped(sync))
                vcpu_tell_stopped(vcpu);
            else
                sleep_stopped(sync);
        vcpu_tell_enters(vcpu);
    } while (must_stay_out(sync));
    int go_on = sync->asked != ASK_QUIT;
    sync->stopped = !go_on;
    vcpu_keep_out_or_let_in(vcpu);
    pthread_cond_broadcast(&sync->changed);
    pthread_mutex_unlock(&sync->mutex);
    return go_on;
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
        return vcpu_served_port(vcpu, left) ? 0 : LEFT_IO;
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
    case KVM_EXIT_SHUTDOWN:
        return vcpu_crashed(vcpu, CRASH_TRIPLE_FAULT, 0);
    case KVM_EXIT_FAIL_ENTRY:
        return vcpu_crashed(vcpu, CRASH_BAD_STATE, run->fail_entry.hardware_entry_failure_reason);
    case KVM_EXIT_INTERNAL_ERROR:
        return vcpu_crashed(vcpu, CRASH_CANNOT_EXECUTE, run->internal.suberror);
    default:
        return vcpu_crashed(vcpu, CRASH_OTHER, run->exit_reason);
    }
}

/* Structs into a vCPU that is out of the guest, one after the other: how many of them KVM took as a whole. */
unsigned lk_kvm_load(int vcpu_fd, const lk_load *loads, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        const struct kvm_msrs *msrs = loads[i].state;
        int whole = loads[i].request == KVM_SET_MSRS ? (int)msrs->nmsrs : 0;
        if (ioctl(vcpu_fd, loads[i].request, loads[i].state) != whole)
            return i;
    }
    return count;
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
    vcpu_keep_out_or_let_in(vcpu);
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
            return vcpu_crashed(vcpu, CRASH_REFUSED, (uint64_t)-error);
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
            return vcpu_crashed(vcpu, CRASH_REFUSED, (uint64_t)errno);
        }
    }
}

/* Until something is to be done in Python: LEFT_*. */
int lk_kvm_run(lk_vcpu *vcpu)
{
    lk_set_actor((uint16_t)(ACTOR_VCPU0 + vcpu->index));
    set_inside(vcpu, 1);
    int left = enter_until_left(vcpu);
    set_inside(vcpu, 0);
    return left;
}
