typedef struct {
    uint64_t seq; /* 1 + position in the feed; 0 while being written */
    uint64_t time_ns; /* CLOCK_MONOTONIC */
    uint16_t kind, actor;
    int32_t queue; /* -1: no queue */
    uint64_t a, b, c, d, e;
} lk_event;

typedef struct lk_feed lk_feed;
typedef struct lk_gates lk_gates;

lk_feed *lk_feed_new(uint32_t capacity);
void lk_feed_free(lk_feed *feed);
void lk_feed_emit(lk_feed *feed, uint16_t kind, int32_t queue, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e);
uint64_t lk_feed_next(const lk_feed *feed);
uint32_t lk_feed_read(const lk_feed *feed, uint64_t *from, lk_event *out, uint32_t most, uint64_t *lost);
void lk_feed_guard(lk_feed *feed, lk_gates *gates);

#define TALLY_COLUMNS 100
#define TALLY_LANES 13
#define LANE_GUEST 0 /* the steps of its driver */
#define LANE_THREADS 1 /* + ACTOR_*: the host's threads */
#define LANE_VCPU0 5 /* + index */

typedef struct {
    uint64_t column_ns; /* how long a column is */
    uint64_t rare; /* kinds, as bits: of these each is told */
    uint64_t columns[TALLY_COLUMNS]; /* which column of all time stands at this place */
    uint32_t counts[TALLY_COLUMNS][TALLY_LANES];
    lk_event kick; /* the newest kick of the guest, as who took it told; seq 0: none yet */
} lk_tally;

int lk_tally_event(lk_tally *tally, const lk_event *event);
uint32_t lk_feed_tally(const lk_feed *feed, uint64_t *from, lk_tally *tally, lk_event *out, uint32_t most, uint64_t *lost);
void lk_set_actor(uint16_t actor);
uint16_t lk_actor(void);
