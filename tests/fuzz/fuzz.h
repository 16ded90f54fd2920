/* What the parts of the fuzz program share: dice, a guest's memory that is watched, a model of a ring, kinds of device. */
#ifndef LABKIT_FUZZ_H
#define LABKIT_FUZZ_H

#include "queue.h"
#include <stdbool.h>

/* -- the guest's memory: RAM_BYTES in the middle of a larger mapping, whose ends nobody may read or write ------------ */
#define EDGE_BYTES (4 * PAGE_BYTES)
#define RAM_BYTES (64 * PAGE_BYTES)
#define RING_PAGE(queue) (1 + 8 * (queue)) /* page 0 is no ring; one of QUEUE_SIZE_MAX takes 7 and a few bytes */
#define RINGS 3
#define TABLES_GPA (26 * PAGE_BYTES) /* indirect tables */
#define TABLES 32 /* as many, of TABLE_ENTRIES */
#define TABLE_ENTRIES 16
#define HEADERS_GPA (28 * PAGE_BYTES) /* what a device reads first */
#define HEADERS 128
#define HEADER_STRIDE 128
#define BUFFERS_GPA (32 * PAGE_BYTES) /* up to the end of RAM */
#define BUFFERS_BYTES (RAM_BYTES - BUFFERS_GPA)
#define DISK_SECTORS 64
#define VECTORS 3

/* struct vring_desc */
typedef struct {
    uint64_t gpa;
    uint32_t bytes;
    uint16_t flags, next;
} vring_desc;

/* What the driver knows of a ring, and what it counts. */
typedef struct {
    uint16_t idx; /* avail.idx as last published */
    uint16_t free; /* where the next chain goes */
    uint32_t waiting; /* descriptors of chains not yet looked at */
    uint64_t trapped, signalled, synthetic; /* kicks made */
    uint64_t forwarded; /* of the trapped, those written to the notifier and still in it */
    uint64_t unread; /* of the signalled, those still in the eventfd */
} driver_queue;

typedef struct kind kind;

typedef struct {
    lk_machine *machine;
    lk_device *device;
    const kind *kind;
    int memfd, disk_fd;
    uint8_t *guest; /* RAM as the guest sees it: a mapping of its own */
    uint8_t *shadow; /* what must be in it */
    driver_queue queues[QUEUE_MAX];
    bool was_broken;
    uint64_t feed_at, messages; /* events read so far; MSI messages they told of, not yet seen at the eventfds */
    uint64_t kicks_ignored, kicks_forwarded, why_ignored; /* told of by events; the last IGNORED_* */
} world;

extern world w;

void world_open(void);
void world_close(void);
void new_device(const kind *which);
uint16_t some_size(void);
void store(uint64_t gpa, const void *from, uint64_t bytes);
void load(uint64_t gpa, void *to, uint64_t bytes);
void accept_change(uint64_t gpa, uint64_t bytes);
void accept_all(void);
void must_hold(uint64_t gpa, const void *from, uint64_t bytes);
void check_memory(const char *when);

/* -- dice: the same seed throws the same numbers ---------------------------------------------------------------------- */
void dice_seed(uint64_t seed);
uint64_t roll(void);
uint32_t below(uint32_t sides);
bool one_in(uint32_t sides);
void fail(const char *form, ...) __attribute__((format(printf, 1, 2), noreturn));
#define expect(what, ...)                                                                                              \
    do {                                                                                                               \
        if (!(what))                                                                                                   \
            fail(__VA_ARGS__);                                                                                         \
    } while (0)

/* -- the model: what a run of a queue may do, told from memory alone --------------------------------------------------- */
#define SPANS_MAX 8192
#define CONTENT_MAX (1 << 17)
#define UNKNOWN_BYTES UINT32_MAX

/* Guest memory; what will be in it, NULL: that is not foreseen. */
typedef struct {
    uint64_t gpa, bytes;
    const uint8_t *content;
} span;

typedef struct {
    uint16_t head;
    unsigned out_count, in_count;
    uint64_t out_bytes, in_bytes;
    span out[QUEUE_SIZE_MAX], in[QUEUE_SIZE_MAX];
} chain;

/* A ring as a run comes through it. */
typedef struct {
    const lk_vq *vq;
    uint64_t avail, used;
    uint16_t taken; /* chains */
    bool looked, asks;
    uint64_t asks_at;
    uint16_t asks_for;
} ring_view;

typedef struct {
    bool runs; /* the device looks at the ring */
    bool forwarded; /* the kick goes to the notifier */
    bool certain; /* nothing the device may write is part of what it goes by */
    bool breaks; /* a chain, an index or the ring itself is bad */
    bool asks; /* used.flags or avail_event are written */
    uint64_t ignored; /* IGNORED_*, or 0 */
    uint32_t served; /* chains before the bad one */
    uint16_t heads[QUEUE_SIZE_MAX];
    uint32_t bytes[QUEUE_SIZE_MAX]; /* used.len of each */
    span writes[SPANS_MAX], reads[SPANS_MAX], used[2];
    unsigned write_count, read_count, used_count;
    uint8_t content[CONTENT_MAX];
    uint64_t content_bytes;
} forecast;

void foresee(uint32_t queue, bool trapped, forecast *f);
void foresee_nothing(forecast *f);
void foresee_write(forecast *f, uint64_t gpa, uint64_t bytes, const uint8_t *content);
void foresee_read(forecast *f, uint64_t gpa, uint64_t bytes);
void foresee_scatter(forecast *f, const chain *c, const uint8_t *content, uint64_t bytes);
ring_view view_of(unsigned queue);
int foresee_pop(forecast *f, ring_view *v, chain *c);
bool foresee_next(forecast *f, ring_view *v);
void foresee_push(forecast *f, const chain *c, uint32_t bytes);
void foresee_used(forecast *f, const ring_view *v, bool own);
void foresee_certain(forecast *f, unsigned buffers);

/* -- kinds of device: one entry each in kinds.c ------------------------------------------------------------------------ */
#define PARTS_MAX 12

struct kind {
    const char *name;
    int number; /* DEVICE_* */
    unsigned queues;
    void (*attach)(lk_device *device); /* beyond queues and vectors */
    void (*detach)(lk_device *device);
    void (*check)(void); /* what holds after every step, beside what holds for all */
    void (*host)(void); /* something happens on the host's side */
    unsigned (*request)(unsigned queue, vring_desc *parts); /* a good one; flags say WRITE, the links come later */

    /* the model, in the order of its questions; without `serve` a run looks at no chain */
    void (*begin)(void);
    bool (*wants)(unsigned queue); /* would it take another chain? NULL: always */
    bool (*serve)(unsigned queue, const chain *c, forecast *f); /* false: the device breaks */
    void (*after)(forecast *f, unsigned queue, ring_view *own,
                  ring_view *other); /* at the end, maybe with another ring */
    void (*ran)(unsigned queue, const forecast *f); /* what else a run leaves behind */
};

vring_desc buffer(uint32_t bytes, bool writable);
uint64_t header_gpa(void);

/* console.c and cable.c */
void console_attach(lk_device *device);
void console_detach(lk_device *device);
void console_check(void);
void console_host(void);
unsigned console_request(unsigned queue, vring_desc *parts);
void console_begin(void);
bool console_wants(unsigned queue);
bool console_takes(unsigned queue, const chain *c, forecast *f);
void console_ran(unsigned queue, const forecast *f);
void net_attach(lk_device *device);
void net_detach(lk_device *device);
void net_check(void);
void net_host(void);
unsigned net_request(unsigned queue, vring_desc *parts);
void net_begin(void);
bool net_wants(unsigned queue);
bool net_takes(unsigned queue, const chain *c, forecast *f);
void net_after(forecast *f, unsigned queue, ring_view *own, ring_view *other);
void net_ran(unsigned queue, const forecast *f);

extern const kind kinds[];
extern const unsigned kind_count;

/* -- the driver -------------------------------------------------------------------------------------------------------- */
void driver_new_ring(unsigned queue, uint32_t pfn);
void driver_add(unsigned queue);
void driver_has_room(unsigned queue);
void driver_noise(void);

/* -- how far the program is, what it counted; and the checks ------------------------------------------------------------ */
typedef struct {
    uint64_t seed, steps, at;
    const char *only, *sabotage, *doing;
    bool trace;
    uint64_t runs, foreseen, served, broken, lives, kicks, wraps, asked, ignored, forwarded, frames, typed;
} progress;

extern progress run;

typedef struct {
    lk_vq vq; /* of the queue, if there is one */
    uint64_t ignored, forwarded;
} before_run;

before_run begin_run(uint32_t queue, bool trapped);
void end_run(uint32_t queue, const before_run *before, int ran);
void settle(unsigned queue, const forecast *f, const before_run *before);
before_run now(uint32_t queue);
void run_locked(unsigned queue, int how);
void message_sent(unsigned vector, int way);
void read_events(void);
void check_all(void);

#endif
