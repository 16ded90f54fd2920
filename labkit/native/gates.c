/* Who may go on? Every event of the feed is a gate: the actor that emitted it can be held behind it, by a person, or all
 * actors go one at a time, each from gate to gate, as a schedule says.
 *
 * In a schedule there are two gates more. Before a lock: who wants one that another has is not let go, so a deadlock is
 * seen and not suffered. And idle: a loop whose fds are not ready, a vCPU that is parked, a main thread without a command.
 * Who is let go decides, when it comes to its next gate, who goes next: nobody else is woken for that.
 *
 * The mutex is taken under the big lock, and a vCPU's own under it. */
#include "gates_inside.h"

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

void gates_unlock(lk_gates *gates)
{
    uint32_t moved = gates->moved;
    gates->moved = 0;
    pthread_mutex_unlock(&gates->mutex);
    for (; moved; moved &= moved - 1)
        pthread_cond_broadcast(&gates->actors[__builtin_ctz(moved)].moved);
}

/* Before a wait: whoever is next wakes up to a free mutex. */
void gates_hand_over(lk_gates *gates)
{
    if (!gates->moved)
        return;
    gates_unlock(gates);
    pthread_mutex_lock(&gates->mutex);
}

/* Is anybody to look here at all? Under the mutex, whenever the answer may have changed. */
void gates_guard(lk_gates *gates)
{
    uint64_t holds = 0;
    for (unsigned i = 0; i < GATES_ACTORS; i++)
        holds |= gates->actors[i].holds;
    store_release(&gates->machine->guarded, gates->playing || (holds && !gates->open));
    lk_feed_guard(gates->machine->feed, gates->machine->guarded ? gates : NULL);
}

void gates_deadline(struct timespec *until, int timeout_ms)
{
    clock_gettime(CLOCK_MONOTONIC, until);
    until->tv_sec += timeout_ms / 1000;
    until->tv_nsec += (long)(timeout_ms % 1000) * 1000000;
    if (until->tv_nsec >= 1000000000) {
        until->tv_sec++;
        until->tv_nsec -= 1000000000;
    }
}

/* In its own thread. */
void gates_stand(actor_at *actor, int place)
{
    actor->place = place;
    actor->thread = pthread_self();
    actor->has = locks;
}

/* It has come to a gate, and stays there until it is let go. The mutex is held. */
static void arrive(lk_gates *gates, actor_at *actor, int place)
{
    gates_stand(actor, place);
    schedule_turn(gates);
    if (!actor->go)
        gates_hand_over(gates);
    while (gates->active && !actor->go)
        pthread_cond_wait(&actor->moved, &gates->mutex);
    actor->go = 0;
    actor->place = PLACE_AWAY;
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
    if (schedule_has(gates, actor)) {
        gates->did |= UINT64_C(1) << (kind & 63);
        if (gates->points >> (kind & 63) & 1)
            arrive(gates, actor, PLACE_GATE);
    } else if (actor->holds >> (kind & 63) & 1 && !gates->open) {
        hold(gates, actor);
    }
    gates_unlock(gates);
}

void gates_want(lk_gates *gates, int what, const int *flag, int wanted)
{
    unsigned me = lk_actor();
    if (me == ACTOR_HOST || me >= GATES_ACTORS)
        return;
    lk_feed_emit(gates->machine->feed, EV_WANTS_LOCK, -1, 0, 0, 0, 0, 0);
    pthread_mutex_lock(&gates->mutex);
    actor_at *actor = &gates->actors[me];
    if (schedule_has(gates, actor)) {
        actor->what = what;
        actor->wants = flag;
        actor->wanted = wanted;
        arrive(gates, actor, PLACE_LOCK);
    }
    gates_unlock(gates);
}

/* While a schedule is played a loop does not wait for its fds, but here, for its turn. */
int gates_idle(lk_gates *gates, int epoll_fd)
{
    unsigned me = lk_actor();
    int went = 0;
    pthread_mutex_lock(&gates->mutex);
    actor_at *actor = &gates->actors[me];
    while (gates->playing >> me & 1 && !went && !(actor->ends && !gates->active)) {
        gates_stand(actor, PLACE_IDLE);
        actor->epoll_fd = epoll_fd;
        pthread_cond_broadcast(&gates->changed);
        if (gates->active)
            schedule_turn(gates);
        if (!actor->go)
            gates_hand_over(gates);
        while (gates->playing >> me & 1 && !actor->go && !(actor->ends && !gates->active))
            pthread_cond_wait(&actor->moved, &gates->mutex);
        went = actor->go;
        actor->go = 0;
    }
    actor->place = PLACE_AWAY;
    actor->epoll_fd = -1;
    gates_unlock(gates);
    return went;
}

/* Unless it was given a step meanwhile: what is done then is an older one, or none. */
void gates_parked(lk_gates *gates, lk_vcpu *vcpu)
{
    pthread_mutex_lock(&gates->mutex);
    actor_at *actor = gates_at(gates, vcpu);
    if (schedule_has(gates, actor) && actor->place == PLACE_AWAY && !lk_step_busy(vcpu)) {
        gates_stand(actor, PLACE_IDLE);
        schedule_turn(gates);
    }
    gates_unlock(gates);
}

/* It is out of the guest in the middle of a step, and somebody else must let it in again. */
void gates_stopped(lk_gates *gates, const lk_vcpu *vcpu)
{
    pthread_mutex_lock(&gates->mutex);
    actor_at *actor = gates_at(gates, vcpu);
    if (schedule_has(gates, actor) && actor->place == PLACE_AWAY && !vcpu_may_run(vcpu)) {
        gates_stand(actor, PLACE_STOPPED);
        schedule_turn(gates);
    }
    gates_unlock(gates);
}

/* Between these two it is asked to run. What was in a step stands at a gate, then; what has a state to load is on its way
 * to where it parks. */
void gates_runs(lk_gates *gates, const lk_vcpu *vcpu, int loads)
{
    pthread_mutex_lock(&gates->mutex);
    actor_at *actor = gates_at(gates, vcpu);
    if (schedule_has(gates, actor) && loads)
        actor->place = PLACE_AWAY;
    else if (actor->place == PLACE_STOPPED)
        actor->place = PLACE_GATE;
}

void gates_asked(lk_gates *gates)
{
    gates_unlock(gates);
}

/* Before it goes into the guest: is it its turn? */
void gates_enter(lk_gates *gates, const lk_vcpu *vcpu)
{
    pthread_mutex_lock(&gates->mutex);
    actor_at *actor = gates_at(gates, vcpu);
    actor->thread = pthread_self();
    if (schedule_has(gates, actor) && (actor->place == PLACE_GATE || actor->go)) {
        while (gates->active && !actor->go)
            pthread_cond_wait(&actor->moved, &gates->mutex);
        actor->go = 0;
        actor->place = PLACE_AWAY;
    }
    gates_unlock(gates);
}

void gates_vcpu(lk_gates *gates, unsigned index, lk_vcpu *vcpu)
{
    pthread_mutex_lock(&gates->mutex);
    gates->actors[ACTOR_VCPU0 + index].vcpu = vcpu;
    gates_unlock(gates);
}

void gates_loop(lk_gates *gates, unsigned actor, lk_loop *loop)
{
    pthread_mutex_lock(&gates->mutex);
    gates->actors[actor].loop = loop;
    gates->actors[actor].ends = 0;
    gates_unlock(gates);
}

void gates_loop_ends(lk_gates *gates, unsigned actor)
{
    pthread_mutex_lock(&gates->mutex);
    gates->actors[actor].ends = 1;
    pthread_cond_broadcast(&gates->actors[actor].moved);
    gates_unlock(gates);
}

/* By its own thread. Whoever waits for *flag goes on. */
void gates_loop_gone(lk_gates *gates, int *flag)
{
    pthread_mutex_lock(&gates->mutex);
    actor_at *actor = &gates->actors[lk_actor()];
    store_release(flag, 1);
    actor->loop = NULL;
    actor->place = PLACE_AWAY;
    if (schedule_has(gates, actor)) {
        schedule_turn(gates);
    }
    pthread_cond_broadcast(&gates->changed);
    gates_unlock(gates);
}

/* -- holds --------------------------------------------------------------------------------------------------------------- */

/* Hold it behind its next event of these kinds (0: no more). It that is held already stays where it is. */
void lk_gates_hold(lk_gates *gates, unsigned actor, uint64_t kinds)
{
    pthread_mutex_lock(&gates->mutex);
    gates->actors[actor % GATES_ACTORS].holds = kinds;
    gates_guard(gates);
    gates_unlock(gates);
}

/* Past the gate behind which it is held. 1: it was. */
int lk_gates_let_go(lk_gates *gates, unsigned actor)
{
    pthread_mutex_lock(&gates->mutex);
    actor_at *who = &gates->actors[actor % GATES_ACTORS];
    int was = who->held;
    who->held = 0;
    pthread_cond_broadcast(&who->moved);
    gates_unlock(gates);
    return was;
}

/* 1: it is held, 0: not within the time. */
int lk_gates_wait_held(lk_gates *gates, unsigned actor, int timeout_ms)
{
    struct timespec until;
    gates_deadline(&until, timeout_ms);
    pthread_mutex_lock(&gates->mutex);
    const actor_at *who = &gates->actors[actor % GATES_ACTORS];
    while (!who->held && pthread_cond_timedwait(&gates->changed, &gates->mutex, &until) != ETIMEDOUT)
        ;
    int held = who->held;
    gates_unlock(gates);
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
    gates_unlock(gates);
    return held;
}

/* Is it held, and does somebody wait for it perhaps? For a lock that it has, or for the vCPU to come out of the guest. */
int lk_gates_in_the_way(lk_gates *gates, unsigned actor)
{
    pthread_mutex_lock(&gates->mutex);
    const actor_at *who = &gates->actors[actor % GATES_ACTORS];
    int in_the_way = who->held && (who->has_lock || (who->vcpu && !vcpu_may_run(who->vcpu)));
    gates_unlock(gates);
    return in_the_way;
}

/* Nobody is held from now on, and no schedule is played: the machine is about to be closed. */
void lk_gates_open(lk_gates *gates)
{
    pthread_mutex_lock(&gates->mutex);
    gates->open = 1;
    gates->playing = 0;
    schedule_finish(gates, SCHEDULE_STUCK);
    gates_guard(gates);
    gates_unlock(gates);
}
