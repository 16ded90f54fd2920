/* What gates.c and schedule.c share: the state of the game, under one mutex. */
#ifndef LABKIT_GATES_INSIDE_H
#define LABKIT_GATES_INSIDE_H

#include "gates.h"
#include <pthread.h>
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

static inline actor_at *gates_at(lk_gates *gates, const lk_vcpu *vcpu)
{
    return &gates->actors[ACTOR_VCPU0 + vcpu->index];
}

/* Does it go as a schedule says? */
static inline int schedule_has(const lk_gates *gates, const actor_at *actor)
{
    return gates->active && gates->playing >> (actor - gates->actors) & 1;
}

/* All of them under the mutex. */
void gates_unlock(lk_gates *gates); /* and whoever is next wakes up */
void gates_hand_over(lk_gates *gates); /* before a wait */
void gates_guard(lk_gates *gates);
void gates_deadline(struct timespec *until, int timeout_ms);
void gates_stand(actor_at *actor, int place); /* in its own thread */
void schedule_turn(lk_gates *gates); /* somebody has come to a place */
void schedule_finish(lk_gates *gates, int outcome);

#endif
