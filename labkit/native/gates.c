/* Who may go on? Every event of the feed is a gate: the actor that emitted it can be held behind it, by a person, or all
 * actors go one at a time, each from gate to gate, as a schedule says.
 *
 * In a schedule there are two gates more. Before a lock: who wants one that another has is not let go, so a deadlock is
 * seen and not suffered. And idle: a loop whose fds are not ready, a vCPU that is parked, a main thread without a command.
 * Who is let go decides, when it comes to its next gate, who goes next: nobody else is woken for that.
 *
 * The mutex is taken under the big lock, and a vCPU's own under it. */
#include "gates.h"
#include "loop.h"
#include <poll.h>
#include <time.h>

typedef struct {
    int place; /* PLACE_* */
    uint16_t kind;
    int32_t queue;
    const int *wants; /* PLACE_LOCK: until this is `wanted` */
    int wanted;
    int epoll_fd; /* PLACE_IDLE of a loop; -1 */
    int go; /* it was let go, and does not know yet */
    uint64_t holds; /* bit n: it is held behind events of kind n */
    int held; /* by a person */
    lk_loop *loop;
    lk_vcpu *vcpu; /* its steps in a schedule, and how many are done */
    const uint32_t *commands;
    const uint64_t *arguments;
    unsigned steps, next_step;
    unsigned priority;
    pthread_cond_t moved;
} actor_at;

struct lk_gates {
    lk_machine *machine;
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    actor_at actors[GATES_ACTORS];
    int open; /* nobody is held any more */
    uint32_t playing; /* actors that go as a schedule says */
    uint64_t points; /* kinds of event that are gates of a schedule */
    int active, outcome;
    unsigned last; /* who went last */
    const uint8_t *plan;
    unsigned planned, limit, changes, decisions;
    int policy;
    uint64_t random, did;
    lk_decision record[GATES_DECISIONS_MAX];
};

lk_gates *lk_gates_of(lk_machine *machine)
{
    return machine->gates;
}

static void condition(pthread_cond_t *made)
{
    pthread_condattr_t attributes;
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(made, &attributes);
    pthread_condattr_destroy(&attributes);
}

lk_gates *gates_new(lk_machine *machine)
{
    lk_gates *gates = calloc(1, sizeof *gates);
    if (!gates)
        return NULL;
    gates->machine = machine;
    pthread_mutex_init(&gates->mutex, NULL);
    condition(&gates->changed);
    for (unsigned i = 0; i < GATES_ACTORS; i++) {
        condition(&gates->actors[i].moved);
        gates->actors[i].epoll_fd = -1;
    }
    return gates;
}

void gates_free(lk_gates *gates)
{
    if (!gates)
        return;
    for (unsigned i = 0; i < GATES_ACTORS; i++)
        pthread_cond_destroy(&gates->actors[i].moved);
    pthread_cond_destroy(&gates->changed);
    pthread_mutex_destroy(&gates->mutex);
    free(gates);
}

/* Is anybody to look here at all? Under the mutex, whenever the answer may have changed. */
static void guard(lk_gates *gates)
{
    uint64_t holds = 0;
    for (unsigned i = 0; i < GATES_ACTORS; i++)
        holds |= gates->actors[i].holds;
    store_release(&gates->machine->guarded, gates->playing || (holds && !gates->open));
    lk_feed_guard(gates->machine->feed, gates->machine->guarded ? gates : NULL);
}

static void deadline(struct timespec *until, int timeout_ms)
{
    clock_gettime(CLOCK_MONOTONIC, until);
    until->tv_sec += timeout_ms / 1000;
    until->tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (until->tv_nsec >= 1000000000) {
        until->tv_sec++;
        until->tv_nsec -= 1000000000;
    }
}

/* -- a schedule: who can go, who goes ------------------------------------------------------------------------------------ */

static int ready(int epoll_fd)
{
    struct pollfd look = {.fd = epoll_fd, .events = POLLIN};
    return epoll_fd >= 0 && poll(&look, 1, 0) > 0;
}

/* Is there such an actor at all? A backend comes and goes. */
static int is_there(unsigned who, const actor_at *actor)
{
    return who == ACTOR_OWNER || actor->vcpu || actor->loop;
}

static int can_go(const actor_at *actor)
{
    switch (actor->place) {
    case PLACE_GATE:
        return 1;
    case PLACE_LOCK:
        return load_relaxed(actor->wants) == actor->wanted;
    case PLACE_IDLE:
        return (actor->next_step < actor->steps && (!actor->vcpu || vcpu_may_run(actor->vcpu))) ||
               ready(actor->epoll_fd);
    default:
        return 0;
    }
}

static uint64_t next_random(lk_gates *gates)
{
    uint64_t x = gates->random;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    gates->random = x;
    return x * UINT64_C(2685821657736338717);
}

static unsigned lowest(uint32_t set)
{
    return (unsigned)__builtin_ctz(set);
}

static unsigned nth(uint32_t set, unsigned n)
{
    while (n--)
        set &= set - 1;
    return lowest(set);
}

static unsigned by_priority(lk_gates *gates, uint32_t enabled)
{
    if (gates->limit && next_random(gates) % gates->limit < gates->changes)
        gates->actors[gates->last].priority = 0; /* a change point, where it was going */
    unsigned best = lowest(enabled);
    for (uint32_t left = enabled; left; left &= left - 1)
        if (gates->actors[lowest(left)].priority > gates->actors[best].priority)
            best = lowest(left);
    return best;
}

static unsigned by_policy(lk_gates *gates, uint32_t enabled)
{
    uint32_t after = enabled & ~((UINT32_C(2) << gates->last) - 1);
    switch (gates->policy) {
    case POLICY_RANDOM:
        return nth(enabled, (unsigned)(next_random(gates) % (unsigned)__builtin_popcount(enabled)));
    case POLICY_PCT:
        return by_priority(gates, enabled);
    case POLICY_TURNS:
        return lowest(after ? after : enabled);
    default:
        return enabled >> gates->last & 1 ? gates->last : lowest(enabled);
    }
}

static void finish(lk_gates *gates, int outcome)
{
    gates->active = 0;
    gates->outcome = outcome;
    for (unsigned i = 0; i < GATES_ACTORS; i++)
        pthread_cond_broadcast(&gates->actors[i].moved);
    pthread_cond_broadcast(&gates->changed);
}

/* The guest's next step, posted as Guest does it. */
static void post(const lk_gates *gates, actor_at *actor)
{
    const uint64_t *arguments = actor->arguments + (uint64_t)actor->next_step * MB_SLOTS;
    uint64_t mailbox = GPA_MAILBOX + (uint64_t)actor->vcpu->index * MAILBOX_STRIDE + MB_ARGS;
    lk_memory_write(gates->machine, mailbox, arguments, MB_SLOTS * sizeof *arguments);
    lk_step_post(actor->vcpu, actor->commands[actor->next_step]);
}

static void let(lk_gates *gates, unsigned who, uint32_t enabled)
{
    actor_at *actor = &gates->actors[who];
    int new_step = actor->place == PLACE_IDLE && actor->next_step < actor->steps;
    gates->record[gates->decisions++] = (lk_decision){.actor = (uint8_t)who,
                                                      .before = (uint8_t)actor->place,
                                                      .kind = new_step ? (uint16_t)actor->next_step : actor->kind,
                                                      .enabled = enabled,
                                                      .seq = lk_feed_next(gates->machine->feed)};
    gates->last = who;
    gates->did = 0;
    actor->place = PLACE_AWAY;
    actor->go = !(new_step && actor->vcpu); /* a parked vCPU's thread waits for its step, not here */
    if (!actor->go)
        post(gates, actor);
    actor->next_step += new_step;
    pthread_cond_signal(&actor->moved);
}

/* Nobody goes: who is next? The mutex is held. */
static void decide(lk_gates *gates)
{
    uint32_t enabled = 0, waits = 0;
    for (uint32_t left = gates->playing; left; left &= left - 1) {
        const actor_at *actor = &gates->actors[lowest(left)];
        if (!is_there(lowest(left), actor))
            continue;
        if (actor->place == PLACE_AWAY)
            return;
        waits |= (actor->place == PLACE_LOCK ? UINT32_C(1) : 0) << lowest(left);
        enabled |= (can_go(actor) ? UINT32_C(1) : 0) << lowest(left);
    }
    if (!enabled) {
        finish(gates, waits ? SCHEDULE_DEADLOCK : SCHEDULE_DONE);
    } else if (gates->decisions >= gates->limit) {
        finish(gates, SCHEDULE_LIMIT);
    } else if (gates->decisions < gates->planned) {
        unsigned who = gates->plan[gates->decisions];
        if (who < GATES_ACTORS && enabled >> who & 1)
            let(gates, who, enabled);
        else
            finish(gates, SCHEDULE_WRONG);
    } else {
        let(gates, by_policy(gates, enabled), enabled);
    }
}

/* What was emitted since the last decision is what it let happen. */
static void note(lk_gates *gates)
{
    if (gates->decisions)
        gates->record[gates->decisions - 1].did = gates->did;
}

/* It has come to a gate, and stays there until it is let go. The mutex is held. */
static void arrive(lk_gates *gates, actor_at *actor, int place)
{
    actor->place = place;
    note(gates);
    decide(gates);
    while (gates->active && !actor->go)
        pthread_cond_wait(&actor->moved, &gates->mutex);
    actor->go = 0;
    actor->place = PLACE_AWAY;
}

/* -- what the actors call ------------------------------------------------------------------------------------------------ */

static void hold(lk_gates *gates, actor_at *actor)
{
    actor->held = 1;
    pthread_cond_broadcast(&gates->changed);
    while (actor->held && !gates->open)
        pthread_cond_wait(&actor->moved, &gates->mutex);
    actor->held = 0;
}

void gates_pass(lk_gates *gates, uint16_t kind, int32_t queue)
{
    unsigned me = lk_actor();
    if (me == ACTOR_HOST || me >= GATES_ACTORS)
        return;
    pthread_mutex_lock(&gates->mutex);
    actor_at *actor = &gates->actors[me];
    actor->kind = kind;
    actor->queue = queue;
    gates->did |= UINT64_C(1) << (kind & 63);
    if (gates->active && gates->playing >> me & 1) {
        if (gates->points >> (kind & 63) & 1)
            arrive(gates, actor, PLACE_GATE);
    } else if (actor->holds >> (kind & 63) & 1 && !gates->open) {
        hold(gates, actor);
    }
    pthread_mutex_unlock(&gates->mutex);
}

void gates_want(lk_gates *gates, const int *flag, int wanted)
{
    unsigned me = lk_actor();
    if (me == ACTOR_HOST || me >= GATES_ACTORS)
        return;
    lk_feed_emit(gates->machine->feed, EV_WANTS_LOCK, -1, 0, 0, 0, 0, 0);
    pthread_mutex_lock(&gates->mutex);
    actor_at *actor = &gates->actors[me];
    if (gates->active && gates->playing >> me & 1) {
        actor->wants = flag;
        actor->wanted = wanted;
        arrive(gates, actor, PLACE_LOCK);
    }
    pthread_mutex_unlock(&gates->mutex);
}

/* While a schedule is played a loop does not wait for its fds, but here, for its turn. */
int gates_idle(lk_gates *gates, int epoll_fd)
{
    unsigned me = lk_actor();
    int went = 0;
    pthread_mutex_lock(&gates->mutex);
    actor_at *actor = &gates->actors[me];
    while (gates->playing >> me & 1 && !went) {
        actor->place = PLACE_IDLE;
        actor->epoll_fd = epoll_fd;
        pthread_cond_broadcast(&gates->changed);
        if (gates->active) {
            note(gates);
            decide(gates);
        }
        while (gates->playing >> me & 1 && !actor->go)
            pthread_cond_wait(&actor->moved, &gates->mutex);
        went = actor->go;
        actor->go = 0;
    }
    actor->place = PLACE_AWAY;
    actor->epoll_fd = -1;
    pthread_mutex_unlock(&gates->mutex);
    return went;
}

/* Unless it was given a step meanwhile: what is done then is an older one, or none. */
void gates_parked(lk_gates *gates, lk_vcpu *vcpu)
{
    unsigned me = lk_actor();
    pthread_mutex_lock(&gates->mutex);
    actor_at *actor = &gates->actors[me];
    if (gates->active && gates->playing >> me & 1 && actor->place == PLACE_AWAY && !lk_step_busy(vcpu)) {
        actor->place = PLACE_IDLE;
        note(gates);
        decide(gates);
    }
    pthread_mutex_unlock(&gates->mutex);
}

/* It is out of the guest in the middle of a step, and somebody else must let it in again: unless that was done before it
 * came to say so. */
void gates_stopped(lk_gates *gates, lk_vcpu *vcpu)
{
    pthread_mutex_lock(&gates->mutex);
    actor_at *actor = &gates->actors[lk_actor()];
    if (gates->active && gates->playing >> lk_actor() & 1 && actor->place == PLACE_AWAY && !vcpu_may_run(vcpu)) {
        actor->place = PLACE_STOPPED;
        note(gates);
        decide(gates);
    }
    pthread_mutex_unlock(&gates->mutex);
}

/* It may go into the guest again, and is on its way if it was in a step, or has a state to load. */
void gates_runs(lk_gates *gates, const lk_vcpu *vcpu, int loads)
{
    pthread_mutex_lock(&gates->mutex);
    actor_at *actor = &gates->actors[ACTOR_VCPU0 + vcpu->index];
    if (actor->place == PLACE_STOPPED || (loads && gates->active))
        actor->place = PLACE_AWAY;
    pthread_mutex_unlock(&gates->mutex);
}

void gates_loop(lk_gates *gates, unsigned actor, lk_loop *loop)
{
    pthread_mutex_lock(&gates->mutex);
    gates->actors[actor].loop = loop;
    if (!loop)
        gates->playing &= ~(UINT32_C(1) << actor);
    pthread_cond_broadcast(&gates->actors[actor].moved);
    pthread_mutex_unlock(&gates->mutex);
}

/* -- holds --------------------------------------------------------------------------------------------------------------- */

/* Hold it behind its next event of these kinds (0: no more). It that is held already stays where it is. */
void lk_gates_hold(lk_gates *gates, unsigned actor, uint64_t kinds)
{
    pthread_mutex_lock(&gates->mutex);
    gates->actors[actor % GATES_ACTORS].holds = kinds;
    guard(gates);
    pthread_mutex_unlock(&gates->mutex);
}

/* Past the gate behind which it is held. 1: it was. */
int lk_gates_let_go(lk_gates *gates, unsigned actor)
{
    pthread_mutex_lock(&gates->mutex);
    actor_at *who = &gates->actors[actor % GATES_ACTORS];
    int was = who->held;
    who->held = 0;
    pthread_cond_broadcast(&who->moved);
    pthread_mutex_unlock(&gates->mutex);
    return was;
}

/* 1: it is held, 0: not within the time. */
int lk_gates_wait_held(lk_gates *gates, unsigned actor, int timeout_ms)
{
    struct timespec until;
    deadline(&until, timeout_ms);
    pthread_mutex_lock(&gates->mutex);
    const actor_at *who = &gates->actors[actor % GATES_ACTORS];
    while (!who->held && pthread_cond_timedwait(&gates->changed, &gates->mutex, &until) != ETIMEDOUT)
        ;
    int held = who->held;
    pthread_mutex_unlock(&gates->mutex);
    return held;
}

/* 1 and the event behind which it is held; 0: it is not. */
int lk_gates_where(lk_gates *gates, unsigned actor, uint16_t *kind, int32_t *queue)
{
    pthread_mutex_lock(&gates->mutex);
    const actor_at *who = &gates->actors[actor % GATES_ACTORS];
    *kind = who->kind;
    *queue = who->queue;
    int held = who->held;
    pthread_mutex_unlock(&gates->mutex);
    return held;
}

/* Would a command of the host wait for it: is it held and has the big lock, or is it a vCPU? */
int lk_gates_in_the_way(lk_gates *gates, unsigned actor)
{
    pthread_mutex_lock(&gates->mutex);
    int held = gates->actors[actor % GATES_ACTORS].held;
    pthread_mutex_unlock(&gates->mutex);
    return held && (actor >= ACTOR_VCPU0 || lock_holder(gates->machine) == (int)actor);
}

/* Nobody is held from now on, and no schedule is played: the machine is about to be closed. */
void lk_gates_open(lk_gates *gates)
{
    pthread_mutex_lock(&gates->mutex);
    gates->open = 1;
    gates->playing = 0;
    finish(gates, SCHEDULE_STUCK);
    guard(gates);
    pthread_mutex_unlock(&gates->mutex);
}

/* -- schedules ----------------------------------------------------------------------------------------------------------- */

static void wake_loops(lk_gates *gates, uint32_t actors)
{
    for (unsigned i = 0; i < GATES_ACTORS; i++)
        if (actors >> i & 1 && gates->actors[i].loop)
            loop_wake(gates->actors[i].loop);
}

/* These actors wait for their turn from now on; `points`: behind which kinds of event. Returns when the loops do. */
void lk_gates_play(lk_gates *gates, uint32_t actors, uint64_t points)
{
    pthread_mutex_lock(&gates->mutex);
    gates->playing = actors;
    gates->points = points;
    guard(gates);
    wake_loops(gates, actors);
    for (unsigned i = 0; i < GATES_ACTORS; i++)
        while (actors >> i & 1 && gates->actors[i].loop && gates->actors[i].place != PLACE_IDLE)
            pthread_cond_wait(&gates->changed, &gates->mutex);
    pthread_mutex_unlock(&gates->mutex);
}

void lk_gates_stop_playing(lk_gates *gates)
{
    pthread_mutex_lock(&gates->mutex);
    gates->playing = 0;
    finish(gates, gates->outcome);
    guard(gates);
    pthread_mutex_unlock(&gates->mutex);
}

/* What a vCPU is to do in the schedules to come: `commands`, each with MB_SLOTS arguments. They stay valid. */
void lk_schedule_vcpu(lk_gates *gates, lk_vcpu *vcpu, const uint32_t *commands, const uint64_t *arguments,
                      unsigned count)
{
    actor_at *actor = &gates->actors[ACTOR_VCPU0 + vcpu->index];
    pthread_mutex_lock(&gates->mutex);
    actor->vcpu = vcpu;
    actor->commands = commands;
    actor->arguments = arguments;
    actor->steps = count;
    pthread_mutex_unlock(&gates->mutex);
}

static void shuffle_priorities(lk_gates *gates)
{
    for (unsigned i = 0; i < GATES_ACTORS; i++)
        gates->actors[i].priority = 1 + (unsigned)(next_random(gates) >> 34);
}

/* Everybody is idle. The main thread, which calls, has `main_steps` steps, and takes them by lk_schedule_next. */
void lk_schedule_begin(lk_gates *gates, const uint8_t *plan, unsigned planned, int policy, uint64_t seed,
                       unsigned changes, unsigned limit, unsigned main_steps)
{
    pthread_mutex_lock(&gates->mutex);
    gates->plan = plan;
    gates->planned = planned;
    gates->policy = policy;
    gates->random = seed * UINT64_C(2862933555777941757) + 3037000493;
    gates->changes = changes;
    gates->limit = limit < GATES_DECISIONS_MAX ? limit : GATES_DECISIONS_MAX;
    gates->decisions = 0;
    gates->last = 0;
    gates->outcome = SCHEDULE_RUNS;
    shuffle_priorities(gates);
    for (unsigned i = 0; i < GATES_ACTORS; i++) {
        actor_at *actor = &gates->actors[i];
        actor->next_step = 0;
        actor->go = 0;
        if (actor->vcpu && gates->playing >> i & 1)
            actor->place = PLACE_IDLE;
    }
    gates->actors[ACTOR_OWNER].steps = main_steps;
    gates->active = 1;
    pthread_mutex_unlock(&gates->mutex);
}

/* The main thread is idle: the step that it is to do next, or -1: the schedule has ended. Whoever runs and comes to no gate
 * for timeout_ms ends it, too. */
int lk_schedule_next(lk_gates *gates, int timeout_ms)
{
    struct timespec until;
    pthread_mutex_lock(&gates->mutex);
    actor_at *me = &gates->actors[ACTOR_OWNER];
    me->place = PLACE_IDLE;
    if (gates->active) {
        note(gates);
        decide(gates);
    }
    unsigned seen = gates->decisions;
    deadline(&until, timeout_ms);
    while (gates->active && !me->go) {
        if (pthread_cond_timedwait(&me->moved, &gates->mutex, &until) != ETIMEDOUT)
            continue;
        if (gates->decisions == seen)
            finish(gates, SCHEDULE_STUCK);
        seen = gates->decisions;
        deadline(&until, timeout_ms);
    }
    int step = me->go && gates->active ? (int)me->next_step - 1 : -1;
    me->go = 0;
    me->place = PLACE_AWAY;
    pthread_mutex_unlock(&gates->mutex);
    return step;
}

int lk_schedule_outcome(const lk_gates *gates)
{
    return load_acquire(&gates->outcome);
}

/* Who was let go, decision by decision. Returns how many. */
unsigned lk_schedule_decisions(const lk_gates *gates, lk_decision *out, unsigned most)
{
    unsigned count = gates->decisions < most ? gates->decisions : most;
    memcpy(out, gates->record, count * sizeof *out);
    return count;
}
