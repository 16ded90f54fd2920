/* actors by number: ACTOR_* of events.h; a vCPU is ACTOR_VCPU0 + its index */
#define GATES_ACTORS 24
#define GATES_DECISIONS_MAX 4096

/* where an actor stands */
#define PLACE_AWAY 0 /* it runs, or is no part of the game */
#define PLACE_GATE 1 /* behind an event it has emitted */
#define PLACE_LOCK 2 /* before a lock that it wants, or until a vCPU has stopped */
#define PLACE_IDLE 3 /* nothing to do, until there is */
#define PLACE_STOPPED 4 /* a vCPU out of the guest in the middle of a step, for the machine is stopped */

/* what an actor waits for at PLACE_LOCK */
#define WANTS_BIG_LOCK 1
#define WANTS_BACKENDS_LOCK 2
#define WANTS_VCPU_OUT 3
#define WANTS_LOOP_GONE 4
#define WANTS_HANDLER_DONE 5

/* locks that it has, as bits */
#define HAS_BIG_LOCK 1
#define HAS_BACKENDS_LOCK 2

/* who decides when a schedule has no more to say */
#define POLICY_STAY 0   /* whoever went last, as long as it can; then the lowest number */
#define POLICY_RANDOM 1
#define POLICY_PCT 2    /* the highest priority; at `changes` decisions the one that runs falls to the lowest */
#define POLICY_TURNS 3  /* round-robin */

/* how a schedule ended */
#define SCHEDULE_RUNS 0
#define SCHEDULE_DONE 1     /* everybody is idle, and every step was taken */
#define SCHEDULE_DEADLOCK 2 /* somebody wants a lock that nobody will release */
#define SCHEDULE_LIMIT 3    /* it does not end */
#define SCHEDULE_WRONG 4    /* the schedule names an actor that cannot go: it is of something else */
#define SCHEDULE_STUCK 5    /* an actor ran and came to no gate in time */

typedef struct {
    uint8_t actor; /* who was let go */
    uint8_t before; /* PLACE_* where it stood */
    uint16_t kind; /* of the event it stood behind; of a vCPU's or the main thread's new step: the step's index; of
                      PLACE_LOCK: what it wanted the flag to be, 0 of a lock */
    uint32_t enabled; /* bit n: actor n could have gone */
    uint64_t did; /* bit n: events of kind n that it emitted until its next place */
    uint64_t seq; /* events in the feed before it went */
} lk_decision;

/* where an actor stood when the plan ended, or the schedule if that was before; `kind` as in a decision */
typedef struct {
    uint8_t place;
    uint16_t kind;
} lk_stand;

/* who goes: as planned, and after that by a policy */
typedef struct {
    const uint8_t *actors; /* stay valid until the schedule's end */
    unsigned count;
    int policy;
    uint64_t seed;
    unsigned changes, length; /* POLICY_PCT: so many changes in so many decisions */
    unsigned limit; /* decisions */
} lk_plan;

/* where an actor stood when a schedule ended */
typedef struct {
    int place; /* PLACE_* */
    int kind; /* of the event it stood behind; of PLACE_LOCK: WANTS_* */
    unsigned has; /* HAS_* */
    uint64_t thread; /* as pthread_self names it, and Python; 0: not known */
} lk_stood;

lk_gates *lk_gates_of(lk_machine *machine);

/* -- holds: what a person does */
void lk_gates_hold(lk_gates *gates, unsigned actor, uint64_t kinds);
int lk_gates_let_go(lk_gates *gates, unsigned actor);
int lk_gates_wait_held(lk_gates *gates, unsigned actor, int timeout_ms);
int lk_gates_where(lk_gates *gates, unsigned actor, uint16_t *kind, int32_t *queue);
int lk_gates_in_the_way(lk_gates *gates, unsigned actor);
void lk_gates_open(lk_gates *gates);

/* -- a schedule: what a search does */
int lk_gates_play(lk_gates *gates, uint32_t actors, uint64_t points, int timeout_ms);
void lk_schedule_vcpu(lk_gates *gates, const lk_vcpu *vcpu, const uint32_t *commands, const uint64_t *arguments,
                      unsigned count);
int lk_schedule_begin(lk_gates *gates, const lk_plan *plan, unsigned main_steps, int timeout_ms);
void lk_schedule_end(lk_gates *gates, int outcome);
int lk_schedule_next(lk_gates *gates, int timeout_ms);
int lk_schedule_outcome(lk_gates *gates);
int lk_schedule_settle(lk_gates *gates, unsigned limit, int timeout_ms);
uint64_t lk_schedule_ended(lk_gates *gates);
void lk_schedule_stood(lk_gates *gates, unsigned actor, lk_stood *out);
void lk_schedule_look(lk_gates *gates, void (*look)(void *who), void *who);
uint64_t lk_schedule_stands(lk_gates *gates, lk_stand *out);
unsigned lk_schedule_decisions(lk_gates *gates, lk_decision *out, unsigned most);
