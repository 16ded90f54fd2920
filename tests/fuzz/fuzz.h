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

/* -- kinds of device: one entry each in kinds.c ------------------------------------------------------------------------ */
#define PARTS_MAX 12

typedef enum {
    LEAVES_ALONE, /* looks at no chain */
    SERVES_SOME, /* takes chains in order, when it has something for them */
    SERVES_ALL, /* a run leaves nothing behind */
} manners;

struct kind {
    const char *name;
    int number; /* DEVICE_* */
    manners manners;
    unsigned queues;
    void (*attach)(lk_device *device); /* beyond queues and vectors */
    void (*check)(void); /* what holds after every step, beside what holds for all */
    unsigned (*request)(unsigned queue, vring_desc *parts); /* a good one; flags say WRITE, the links come later */
    bool (*takes)(uint64_t out_bytes, uint64_t in_bytes); /* a chain that is in order: does the device take it too? */
};

extern const kind kinds[];
extern const unsigned kind_count;

/* -- the driver -------------------------------------------------------------------------------------------------------- */
void driver_new_ring(unsigned queue, uint32_t pfn);
void driver_add(unsigned queue);
void driver_noise(void);

/* -- the model: what a run of a queue may do, told from memory alone --------------------------------------------------- */
#define SPANS_MAX 8192

typedef struct {
    uint64_t gpa, bytes;
} span;

typedef struct {
    bool runs; /* there is a ring and the device is whole */
    bool certain; /* nothing the device may write is part of what describes the chains */
    bool breaks; /* a chain, an index or the ring itself is bad */
    uint32_t served; /* chains before that */
    uint16_t heads[QUEUE_SIZE_MAX];
    uint64_t last_byte; /* the last writable byte of the last of them */
    span writes[SPANS_MAX], reads[SPANS_MAX];
    unsigned write_count, read_count;
} forecast;

void foresee(unsigned queue, forecast *f);

/* -- how far the program is, what it counted; and the checks ------------------------------------------------------------ */
typedef struct {
    uint64_t seed, steps, at;
    const char *only, *sabotage, *doing;
    bool trace;
    uint64_t runs, foreseen, served, broken, lives, kicks, wraps;
} progress;

extern progress run;

typedef struct {
    uint16_t used_idx;
    uint64_t runs, interrupts;
} before_run;

before_run begin_run(unsigned queue);
void end_run(unsigned queue, const before_run *before, int ran);
void message_sent(unsigned vector, int way);
void read_events(void);
void check_all(void);

#endif
