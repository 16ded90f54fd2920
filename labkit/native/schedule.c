/* Who goes next? In a schedule exactly one actor goes, from one place to the next; whoever comes to a place decides, by the
 * plan, and where that ends by a policy. */
#include "gates_inside.h"
#include "loop.h"
#include <poll.h>

/* -- who can go, who goes ------------------------------------------------------------------------------------------------ */

static unsigned lowest(uint32_t set)
{
    return (unsigned)__builtin_ctz(set);
}

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

void schedule_finish(lk_gates *gates, int outcome)
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
        schedule_finish(gates, waits ? SCHEDULE_DEADLOCK : SCHEDULE_DONE);
    } else if (gates->decisions >= gates->limit) {
        schedule_finish(gates, SCHEDULE_LIMIT);
    } else if (gates->decisions < gates->planned) {
        unsigned who = gates->plan[gates->decisions];
        if (who < GATES_ACTORS && enabled >> who & 1)
            let(gates, who, enabled);
        else
            schedule_finish(gates, SCHEDULE_WRONG);
    } else {
        let(gates, by_policy(gates, enabled), enabled);
    }
}

/* Somebody has come to a place: what was emitted since the last decision is what it let happen. Who is next? */
void schedule_turn(lk_gates *gates)
{
    if (gates->decisions)
        gates->record[gates->decisions - 1].did = gates->did;
    decide(gates);
}

/* -- from begin to end --------------------------------------------------------------------------------------------------- */

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
    gates_deadline(&until, timeout_ms);
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
    gates_guard(gates);
    wake_loops(gates, actors);
    int rest = loops_rest(gates, timeout_ms);
    gates_unlock(gates);
    return rest ? 0 : -ETIMEDOUT;
}

/* What a vCPU is to do in the schedules to come: `commands`, each with MB_SLOTS arguments. They stay valid. */
void lk_schedule_vcpu(lk_gates *gates, const lk_vcpu *vcpu, const uint32_t *commands, const uint64_t *arguments,
                      unsigned count)
{
    pthread_mutex_lock(&gates->mutex);
    actor_at *actor = gates_at(gates, vcpu);
    actor->commands = commands;
    actor->arguments = arguments;
    actor->steps = count;
    gates_unlock(gates);
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
    gates_unlock(gates);
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
        schedule_finish(gates, outcome);
    gates_unlock(gates);
}

/* The main thread is idle: the step that it is to do next, or -1: the schedule has ended. Whoever runs and comes to no gate
 * for timeout_ms ends it, too. */
int lk_schedule_next(lk_gates *gates, int timeout_ms)
{
    struct timespec until;
    pthread_mutex_lock(&gates->mutex);
    actor_at *me = &gates->actors[ACTOR_OWNER];
    gates_stand(me, PLACE_IDLE);
    if (gates->active)
        schedule_turn(gates);
    if (!me->go)
        gates_hand_over(gates);
    unsigned seen = gates->decisions;
    gates_deadline(&until, timeout_ms);
    while (gates->active && !me->go) {
        if (pthread_cond_timedwait(&me->moved, &gates->mutex, &until) != ETIMEDOUT)
            continue;
        if (gates->decisions == seen)
            schedule_finish(gates, SCHEDULE_STUCK);
        seen = gates->decisions;
        gates_deadline(&until, timeout_ms);
    }
    int step = me->go && gates->active ? (int)me->next_step - 1 : -1;
    me->go = 0;
    me->place = PLACE_AWAY;
    gates_unlock(gates);
    return step;
}

int lk_schedule_outcome(lk_gates *gates)
{
    pthread_mutex_lock(&gates->mutex);
    int outcome = gates->outcome;
    gates_unlock(gates);
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
    gates_unlock(gates);
    return ended;
}

void lk_schedule_stood(lk_gates *gates, unsigned actor, lk_stood *out)
{
    pthread_mutex_lock(&gates->mutex);
    *out = gates->actors[actor % GATES_ACTORS].stood;
    gates_unlock(gates);
}

/* `look` is called when a schedule ends in a deadlock, or somebody is stuck, while everybody still stands there. It must
 * not ask the gates anything, for the mutex is held; no thread waits for that with the GIL. */
void lk_schedule_look(lk_gates *gates, void (*look)(void *who), void *who)
{
    pthread_mutex_lock(&gates->mutex);
    gates->look = look;
    gates->looks = who;
    gates_unlock(gates);
}

/* Where each of GATES_ACTORS stood when the plan ended. Returns how many events there had been in the feed. */
uint64_t lk_schedule_stands(lk_gates *gates, lk_stand *out)
{
    pthread_mutex_lock(&gates->mutex);
    memcpy(out, gates->stands, sizeof gates->stands);
    uint64_t events = gates->events_then;
    gates_unlock(gates);
    return events;
}

/* Who was let go, decision by decision. Returns how many decisions there were. */
unsigned lk_schedule_decisions(lk_gates *gates, lk_decision *out, unsigned most)
{
    pthread_mutex_lock(&gates->mutex);
    unsigned count = gates->decisions;
    if (most)
        memcpy(out, gates->record, (count < most ? count : most) * sizeof *out);
    gates_unlock(gates);
    return count;
}
