/* One turn of an emulated vCPU: what was asked of it, instructions up to an exit, what the exit left behind, and on. */
#include "emulated.h"

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
    emulated_wake(own(vcpu)->emulated);
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
    sync->resting = 1;
    vcpu_tell_parked(vcpu);
    uint32_t command = begins ? vcpu_take_step(vcpu) : CMD_NONE;
    sync->resting = cpu->parks = !command;
    pthread_mutex_unlock(&sync->mutex);
    return command;
}

const lk_vcpu_ops *emulated_ops(void)
{
    static const lk_vcpu_ops ops = {.let_in = let_in, .fetch = fetch, .park = park, .one_thread = 1};
    return &ops;
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
    if (sync->asked == ASK_RUN && !sync->resting)
        vcpu_tell_enters(cpu->vcpu);
    turn next = asked(cpu);
    if (next == RESTS && sync->asked != ASK_RUN && !sync->resting)
        vcpu_tell_stopped(cpu->vcpu);
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

/* A whole turn, in parts, for every exit ends one: `quantum` instructions, or fewer if it halts, parks or is stopped. */
turn emulated_turn(emulated_cpu *cpu, int *executed)
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
        emulated_listen(cpu->emulated, 0);
        next = look(cpu);
    }
    *executed |= ran;
    return next;
}
