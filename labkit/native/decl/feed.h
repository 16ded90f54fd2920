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
void lk_set_actor(uint16_t actor);
uint16_t lk_actor(void);
