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
    int what; /* PLACE_LOCK: WANTS_* */
    const int *wants; /* until this is `wanted` */
    int wanted;
    int epoll_fd; /* PLACE_IDLE of a loop; -1 */
    int go; /* it was let go, and does not know yet */
    uint64_t holds; /* bit n: it is held behind events of kind n */
    int held; /* by a person */
    int has_lock; /* then: somebody may wait for what it has */
    lk_loop *loop;
    int ends; /* its loop is about to be freed */
    lk_vcpu *vcpu;
    const uint32_t *commands;
    const uint64_t *arguments;
    unsigned steps, next_step; /* in a schedule: how many there are, and are done */
    unsigned priority;
    pthread_t thread; /* when it came to a gate last */
    unsigned has; /* HAS_*, then */
    lk_stood stood;
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
    uint32_t moved; /* actors that are to be woken when the mutex is free: sooner they would only wait for it */
    int active, outcome;
    void (*look)(void *who); /* once the actors stand where they will not go on, and before they do */
    void *looks;
    uint64_t ended; /* events in the feed when the last schedule did */
    unsigned last; /* who went last */
    const uint8_t *plan;
    unsigned planned, limit, changes, length, decisions;
    int policy;
    uint64_t random, did;
    lk_decision record[GATES_DECISIONS_MAX];
    int stands_noted;
    uint64_t events_then;
    lk_stand stands[GATES_ACTORS]; /* when the plan ended, as those events */
};

static __thread unsigned locks; /* that this thread has: HAS_* */

lk_gates *lk_gates_of(lk_machine *machine)
{
    return machine->gates;
}

void gates_locked(unsigned lock, int is)
{
    locks = is ? locks | lock : locks & ~lock;
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

static unsigned lowest(uint32_t set)
{
    return (unsigned)__builtin_ctz(set);
}

static void unlock(lk_gates *gates)
{
    uint32_t moved = gates->moved;
    gates->moved = 0;
    pthread_mutex_unlock(&gates->mutex);
    for (; moved; moved &= moved - 1)
        pthread_cond_broadcast(&gates->actors[lowest(moved)].moved);
}

/* Before a wait: whoever is next wakes up to a free mutex. */
static void hand_over(lk_gates *gates)
{
    if (!gates->moved)
        return;
    unlock(gates);
    pthread_mutex_lock(&gates->mutex);
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

/* Is its thread another vCPU's, too, which stands in the middle of a step? */
static int thread_is_taken(const lk_gates *gates, const actor_at *actor)
{
    if (!actor->vcpu || !vcpu_shares_thread(actor->vcpu))
        return 0;
    for (const actor_at *other = gates->actors + ACTOR_VCPU0; other < gates->actors + GATES_ACTORS; other++)
        if (other != actor && (other->place == PLACE_GATE || other->place == PLACE_LOCK))
            return 1;
    return 0;
}

static int can_go(const lk_gates *gates, const actor_at *actor)
{
    if (thread_is_taken(gates, actor))
        return 0;
    switch (actor->place) {
    case PLACE_GATE:
        return 1;
    case PLACE_LOCK:
        return load_relaxed(actor->wants) == actor->wanted;
    case PLACE_IDLE:
        return actor->ends || (actor->next_step < actor->steps && (!actor->vcpu || vcpu_may_run(actor->vcpu))) ||
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

static unsigned nth(uint32_t set, unsigned n)
{
    while (n--)
        set &= set - 1;
    return lowest(set);
}

static unsigned by_priority(lk_gates *gates, uint32_t enabled)
{
    if (gates->length && next_random(gates) % gates->length < gates->changes)
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

static uint16_t kind_at(const actor_at *actor)
{
    return actor->place == PLACE_LOCK ? (uint16_t)actor->what : actor->kind;
}

/* Once in a schedule. The mutex is held. */
static void note_stands(lk_gates *gates)
{
    if (gates->stands_noted)
        return;
    gates->stands_noted = 1;
    gates->events_then = lk_feed_next(gates->machine->feed);
    for (unsigned i = 0; i < GATES_ACTORS; i++) {
        const actor_at *actor = &gates->actors[i];
        int place = is_there(i, actor) ? actor->place : PLACE_IDLE; /* a thread that is made when there is work */
        gates->stands[i] = (lk_stand){.place = (uint8_t)place, .kind = kind_at(actor)};
    }
}

static void finish(lk_gates *gates, int outcome)
{
    note_stands(gates);
    if (gates->active && gates->look && (outcome == SCHEDULE_DEADLOCK || outcome == SCHEDULE_STUCK))
        gates->look(gates->looks);
    gates->active = 0;
    gates->ended = lk_feed_next(gates->machine->feed);
    gates->outcome = outcome;
    for (unsigned i = 0; i < GATES_ACTORS; i++) {
        actor_at *actor = &gates->actors[i];
        actor->stood = (lk_stood){.place = actor->place,
                                  .kind = kind_at(actor),
                                  .has = actor->place == PLACE_AWAY ? 0 : actor->has,
                                  .thread = (uint64_t)actor->thread};
        gates->moved |= UINT32_C(1) << i;
    }
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
    int idle = actor->place == PLACE_IDLE, new_step = idle && actor->next_step < actor->steps;
    gates->record[gates->decisions++] = (lk_decision){.actor = (uint8_t)who,
                                                      .before = (uint8_t)actor->place,
                                                      .kind = idle ? (uint16_t)actor->next_step : kind_at(actor),
                                                      .enabled = enabled,
                                                      .seq = lk_feed_next(gates->machine->feed)};
    gates->last = who;
    gates->did = 0;
    actor->place = PLACE_AWAY;
    actor->go = !(new_step && actor->vcpu); /* a parked vCPU's thread waits for its step, not here */
    if (!actor->go)
        post(gates, actor);
    actor->next_step += new_step;
    gates->moved |= UINT32_C(1) << who;
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
        enabled |= (can_go(gates, actor) ? UINT32_C(1) : 0) << lowest(left);
    }
    if (gates->decisions == gates->planned)
        note_stands(gates);
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

/* In its own thread. */
static void stand(actor_at *actor, int place)
{
    actor->place = place;
    actor->thread = pthread_self();
    actor->has = locks;
}

/* It has come to a gate, and stays there until it is let go. The mutex is held. */
static void arrive(lk_gates *gates, actor_at *actor, int place)
{
    stand(actor, place);
    note(gates);
    decide(gates);
    if (!actor->go)
        hand_over(gates);
    while (gates->active && !actor->go)
        pthread_cond_wait(&actor->moved, &gates->mutex);
    actor->go = 0;
    actor->place = PLACE_AWAY;
}

static actor_at *at_vcpu(lk_gates *gates, const lk_vcpu *vcpu)
{
    return &gates->actors[ACTOR_VCPU0 + vcpu->index];
}

static int in_a_schedule(const lk_gates *gates, const actor_at *actor)
{
    return gates->active && gates->playing >> (actor - gates->actors) & 1;
}

/* -- what the actors call ------------------------------------------------------------------------------------------------ */

static void hold(lk_gates *gates, actor_at *actor)
{
    actor->held = 1;
    actor->has_lock = locks != 0;
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
    if (in_a_schedule(gates, actor)) {
        gates->did |= UINT64_C(1) << (kind & 63);
        if (gates->points >> (kind & 63) & 1)
            arrive(gates, actor, PLACE_GATE);
    } else if (actor->holds >> (kind & 63) & 1 && !gates->open) {
        hold(gates, actor);
    }
    unlock(gates);
}

void gates_want(lk_gates *gates, int what, const int *flag, int wanted)
{
    unsigned me = lk_actor();
    if (me == ACTOR_HOST || me >= GATES_ACTORS)
        return;
    lk_feed_emit(gates->machine->feed, EV_WANTS_LOCK, -1, 0, 0, 0, 0, 0);
    pthread_mutex_lock(&gates->mutex);
    actor_at *actor = &gates->actors[me];
    if (in_a_schedule(gates, actor)) {
        actor->what = what;
        actor->wants = flag;
        actor->wanted = wanted;
        arrive(gates, actor, PLACE_LOCK);
    }
    unlock(gates);
}

/* While a schedule is played a loop does not wait for its fds, but here, for its turn. */
int gates_idle(lk_gates *gates, int epoll_fd)
{
    unsigned me = lk_actor();
    int went = 0;
    pthread_mutex_lock(&gates->mutex);
    actor_at *actor = &gates->actors[me];
    while (gates->playing >> me & 1 && !went && !(actor->ends && !gates->active)) {
        stand(actor, PLACE_IDLE);
        actor->epoll_fd = epoll_fd;
        pthread_cond_broadcast(&gates->changed);
        if (gates->active) {
            note(gates);
            decide(gates);
        }
        if (!actor->go)
            hand_over(gates);
        while (gates->playing >> me & 1 && !actor->go && !(actor->ends && !gates->active))
            pthread_cond_wait(&actor->moved, &gates->mutex);
        went = actor->go;
        actor->go = 0;
    }
    actor->place = PLACE_AWAY;
    actor->epoll_fd = -1;
    unlock(gates);
    return went;
}

/* Unless it was given a step meanwhile: what is done then is an older one, or none. */
void gates_parked(lk_gates *gates, lk_vcpu *vcpu)
{
    pthread_mutex_lock(&gates->mutex);
    actor_at *actor = at_vcpu(gates, vcpu);
    if (in_a_schedule(gates, actor) && actor->place == PLACE_AWAY && !lk_step_busy(vcpu)) {
        stand(actor, PLACE_IDLE);
        note(gates);
        decide(gates);
    }
    unlock(gates);
}

/* It is out of the guest in the middle of a step, and somebody else must let it in again. */
void gates_stopped(lk_gates *gates, const lk_vcpu *vcpu)
{
    pthread_mutex_lock(&gates->mutex);
    actor_at *actor = at_vcpu(gates, vcpu);
    if (in_a_schedule(gates, actor) && actor->place == PLACE_AWAY && !vcpu_may_run(vcpu)) {
        stand(actor, PLACE_STOPPED);
        note(gates);
        decide(gates);
    }
    unlock(gates);
}

/* Between these two it is asked to run. What was in a step stands at a gate, then; what has a state to load is on its way
 * to where it parks. */
void gates_runs(lk_gates *gates, const lk_vcpu *vcpu, int loads)
{
    pthread_mutex_lock(&gates->mutex);
    actor_at *actor = at_vcpu(gates, vcpu);
    if (in_a_schedule(gates, actor) && loads)
        actor->place = PLACE_AWAY;
    else if (actor->place == PLACE_STOPPED)
        actor->place = PLACE_GATE;
}

void gates_asked(lk_gates *gates)
{
    unlock(gates);
}

/* Before it goes into the guest: is it its turn? */
void gates_enter(lk_gates *gates, const lk_vcpu *vcpu)
{
    pthread_mutex_lock(&gates->mutex);
    actor_at *actor = at_vcpu(gates, vcpu);
    actor->thread = pthread_self();
    if (in_a_schedule(gates, actor) && (actor->place == PLACE_GATE || actor->go)) {
        while (gates->active && !actor->go)
            pthread_cond_wait(&actor->moved, &gates->mutex);
        actor->go = 0;
        actor->place = PLACE_AWAY;
    }
    unlock(gates);
}

void gates_vcpu(lk_gates *gates, unsigned index, lk_vcpu *vcpu)
{
    pthread_mutex_lock(&gates->mutex);
    gates->actors[ACTOR_VCPU0 + index].vcpu = vcpu;
    unlock(gates);
}

void gates_loop(lk_gates *gates, unsigned actor, lk_loop *loop)
{
    pthread_mutex_lock(&gates->mutex);
    gates->actors[actor].loop = loop;
    gates->actors[actor].ends = 0;
    unlock(gates);
}

void gates_loop_ends(lk_gates *gates, unsigned actor)
{
    pthread_mutex_lock(&gates->mutex);
    gates->actors[actor].ends = 1;
    pthread_cond_broadcast(&gates->actors[actor].moved);
    unlock(gates);
}

/* By its own thread. Whoever waits for *flag goes on. */
void gates_loop_gone(lk_gates *gates, int *flag)
{
    pthread_mutex_lock(&gates->mutex);
    actor_at *actor = &gates->actors[lk_actor()];
    store_release(flag, 1);
    actor->loop = NULL;
    actor->place = PLACE_AWAY;
    if (in_a_schedule(gates, actor)) {
        note(gates);
        decide(gates);
    }
    pthread_cond_broadcast(&gates->changed);
    unlock(gates);
}

/* -- holds --------------------------------------------------------------------------------------------------------------- */

/* Hold it behind its next event of these kinds (0: no more). It that is held already stays where it is. */
void lk_gates_hold(lk_gates *gates, unsigned actor, uint64_t kinds)
{
    pthread_mutex_lock(&gates->mutex);
    gates->actors[actor % GATES_ACTORS].holds = kinds;
    guard(gates);
    unlock(gates);
}

/* Past the gate behind which it is held. 1: it was. */
int lk_gates_let_go(lk_gates *gates, unsigned actor)
{
    pthread_mutex_lock(&gates->mutex);
    actor_at *who = &gates->actors[actor % GATES_ACTORS];
    int was = who->held;
    who->held = 0;
    pthread_cond_broadcast(&who->moved);
    unlock(gates);
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
    unlock(gates);
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
    unlock(gates);
    return held;
}

/* Is it held, and does somebody wait for it perhaps? For a lock that it has, or for the vCPU to come out of the guest. */
int lk_gates_in_the_way(lk_gates *gates, unsigned actor)
{
    pthread_mutex_lock(&gates->mutex);
    const actor_at *who = &gates->actors[actor % GATES_ACTORS];
    int in_the_way = who->held && (who->has_lock || (who->vcpu && !vcpu_may_run(who->vcpu)));
    unlock(gates);
    return in_the_way;
}

/* Nobody is held from now on, and no schedule is played: the machine is about to be closed. */
void lk_gates_open(lk_gates *gates)
{
    pthread_mutex_lock(&gates->mutex);
    gates->open = 1;
    gates->playing = 0;
    finish(gates, SCHEDULE_STUCK);
    guard(gates);
    unlock(gates);
}

/* -- schedules ----------------------------------------------------------------------------------------------------------- */

static void wake_loops(lk_gates *gates, uint32_t actors)
{
    for (unsigned i = 0; i < GATES_ACTORS; i++)
        if (actors >> i & 1 && gates->actors[i].loop)
            loop_wake(gates->actors[i].loop);
}

/* Do the loops among the actors wait for their turn? Until they do, or the time is over. The mutex is held. */
static int loops_rest(lk_gates *gates, int timeout_ms)
{
    struct timespec until;
    deadline(&until, timeout_ms);
    for (unsigned i = 0; i < GATES_ACTORS; i++)
        while (gates->playing >> i & 1 && gates->actors[i].loop && gates->actors[i].place != PLACE_IDLE)
            if (pthread_cond_timedwait(&gates->changed, &gates->mutex, &until) == ETIMEDOUT)
                return 0;
    return 1;
}

/* These actors wait for their turn from now on; `points`: behind which kinds of event. 0, or -ETIMEDOUT: a loop does not
 * come to rest. */
int lk_gates_play(lk_gates *gates, uint32_t actors, uint64_t points, int timeout_ms)
{
    pthread_mutex_lock(&gates->mutex);
    gates->playing = actors;
    gates->points = points;
    guard(gates);
    wake_loops(gates, actors);
    int rest = loops_rest(gates, timeout_ms);
    unlock(gates);
    return rest ? 0 : -ETIMEDOUT;
}

/* What a vCPU is to do in the schedules to come: `commands`, each with MB_SLOTS arguments. They stay valid. */
void lk_schedule_vcpu(lk_gates *gates, const lk_vcpu *vcpu, const uint32_t *commands, const uint64_t *arguments,
                      unsigned count)
{
    pthread_mutex_lock(&gates->mutex);
    actor_at *actor = at_vcpu(gates, vcpu);
    actor->commands = commands;
    actor->arguments = arguments;
    actor->steps = count;
    unlock(gates);
}

static void shuffle_priorities(lk_gates *gates)
{
    for (unsigned i = 0; i < GATES_ACTORS; i++)
        gates->actors[i].priority = 1 + (unsigned)(next_random(gates) >> 34);
}

/* The main thread, which calls, takes its steps by lk_schedule_next. `skipped`: nobody has a step to take. */
static int begin(lk_gates *gates, const lk_plan *plan, unsigned main_steps, int skipped, int timeout_ms)
{
    pthread_mutex_lock(&gates->mutex);
    int rest = loops_rest(gates, timeout_ms);
    gates->plan = plan->actors;
    gates->planned = plan->count;
    gates->policy = plan->policy;
    gates->random = (plan->seed * UINT64_C(2862933555777941757) + 3037000493) | 1; /* 0 would stay 0 */
    gates->changes = plan->changes;
    gates->length = plan->length;
    gates->limit = plan->limit < GATES_DECISIONS_MAX ? plan->limit : GATES_DECISIONS_MAX;
    gates->decisions = 0;
    gates->stands_noted = 0;
    gates->last = 0;
    gates->outcome = rest ? SCHEDULE_RUNS : SCHEDULE_STUCK;
    shuffle_priorities(gates);
    for (unsigned i = 0; i < GATES_ACTORS; i++) {
        actor_at *actor = &gates->actors[i];
        actor->next_step = skipped ? actor->steps : 0;
        actor->go = 0;
        if (actor->vcpu && gates->playing >> i & 1)
            actor->place = PLACE_IDLE;
    }
    gates->actors[ACTOR_OWNER].steps = gates->actors[ACTOR_OWNER].next_step + main_steps;
    gates->active = rest;
    unlock(gates);
    return rest ? 0 : -ETIMEDOUT;
}

/* Everybody comes to rest first: 0, or -ETIMEDOUT. */
int lk_schedule_begin(lk_gates *gates, const lk_plan *plan, unsigned main_steps, int timeout_ms)
{
    return begin(gates, plan, main_steps, 0, timeout_ms);
}

/* From any thread: it has ended like that, if it has not yet. Whoever stands at a gate goes on. */
void lk_schedule_end(lk_gates *gates, int outcome)
{
    pthread_mutex_lock(&gates->mutex);
    if (gates->active)
        finish(gates, outcome);
    unlock(gates);
}

/* The main thread is idle: the step that it is to do next, or -1: the schedule has ended. Whoever runs and comes to no gate
 * for timeout_ms ends it, too. */
int lk_schedule_next(lk_gates *gates, int timeout_ms)
{
    struct timespec until;
    pthread_mutex_lock(&gates->mutex);
    actor_at *me = &gates->actors[ACTOR_OWNER];
    stand(me, PLACE_IDLE);
    if (gates->active) {
        note(gates);
        decide(gates);
    }
    if (!me->go)
        hand_over(gates);
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
    unlock(gates);
    return step;
}

int lk_schedule_outcome(lk_gates *gates)
{
    pthread_mutex_lock(&gates->mutex);
    int outcome = gates->outcome;
    unlock(gates);
    return outcome;
}

/* What has been signalled is served, and nobody takes a step: how that ends. */
int lk_schedule_settle(lk_gates *gates, unsigned limit, int timeout_ms)
{
    const lk_plan plan = {.policy = POLICY_STAY, .limit = limit};
    if (!begin(gates, &plan, 0, 1, timeout_ms))
        lk_schedule_next(gates, timeout_ms);
    return lk_schedule_outcome(gates);
}

/* Events in the feed then. What has stood at a gate goes on and emits more. */
uint64_t lk_schedule_ended(lk_gates *gates)
{
    pthread_mutex_lock(&gates->mutex);
    uint64_t ended = gates->ended;
    unlock(gates);
    return ended;
}

void lk_schedule_stood(lk_gates *gates, unsigned actor, lk_stood *out)
{
    pthread_mutex_lock(&gates->mutex);
    *out = gates->actors[actor % GATES_ACTORS].stood;
    unlock(gates);
}

/* `look` is called when a schedule ends in a deadlock, or somebody is stuck, while everybody still stands there. It must
 * not ask the gates anything, for the mutex is held; no thread waits for that with the GIL. */
void lk_schedule_look(lk_gates *gates, void (*look)(void *who), void *who)
{
    pthread_mutex_lock(&gates->mutex);
    gates->look = look;
    gates->looks = who;
    unlock(gates);
}

/* Where each of GATES_ACTORS stood when the plan ended. Returns how many events there had been in the feed. */
uint64_t lk_schedule_stands(lk_gates *gates, lk_stand *out)
{
    pthread_mutex_lock(&gates->mutex);
    memcpy(out, gates->stands, sizeof gates->stands);
    uint64_t events = gates->events_then;
    unlock(gates);
    return events;
}

/* Who was let go, decision by decision. Returns how many decisions there were. */
unsigned lk_schedule_decisions(lk_gates *gates, lk_decision *out, unsigned most)
{
    pthread_mutex_lock(&gates->mutex);
    unsigned count = gates->decisions;
    if (most)
        memcpy(out, gates->record, (count < most ? count : most) * sizeof *out);
    unlock(gates);
    return count;
}
