/* A driver in a process of its own, on a ring it shares with the device by a memfd; kick and call are eventfds.
 *
 *   vring_driver --ram FD --ram-bytes N --pfn N --num N --kick FD --call FD --sectors N --transfers N --seed N
 *                [--indirect 1] [--event-idx 1]
 *
 * Reads sectors at random, many in flight, in bursts; each 8-byte word of sector s must be WORDS * s + its place.
 * Ends with a line of what it did, or with what was wrong. */
#include "abi.h"
#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define HEADERS 0x30000 /* header and status byte of a slot */
#define TABLES 0x34000 /* its indirect table */
#define BUFFERS 0x40000 /* its data */
#define SLOT_BYTES 64
#define BUFFER_BYTES 4096
#define CHAIN_MAX 4 /* header, data in one or two parts, status */
#define SLOTS_MAX 128
#define WORDS (SECTOR_BYTES / sizeof(uint64_t))
#define UNTOUCHED 0xee
#define PATIENCE_MS 20000

typedef struct {
    uint64_t gpa;
    uint32_t bytes;
    uint16_t flags, next;
} vring_desc;

typedef struct {
    uint32_t type, ioprio;
    uint64_t sector;
} blk_header;

static struct {
    uint64_t ram_fd, ram_bytes, pfn, num, kick_fd, call_fd, sectors, transfers, seed, indirect, event_idx;
} given;

static uint8_t *ram;
static vring_desc *desc;
static uint16_t *avail, *avail_ring, *used_event, *used, *avail_event;
static uint32_t *used_ring;
static uint64_t slots, free_slots[SLOTS_MAX], free_count, sector_of[SLOTS_MAX];
static bool in_flight[SLOTS_MAX];
static uint16_t published, reaped; /* avail.idx and used.idx as far as this side has come */
static uint64_t started, done, kicks, spared, calls, waits;

static uint32_t below(uint32_t sides)
{
    given.seed ^= given.seed << 13;
    given.seed ^= given.seed >> 7;
    given.seed ^= given.seed << 17;
    return (uint32_t)((given.seed >> 32) * sides >> 32);
}

static void check(bool good, const char *what)
{
    if (good)
        return;
    fprintf(stderr, "vring_driver: %s, after %lu transfers (avail %u, used %u)\n", what, done, published, reaped);
    exit(1);
}

#define load(at) __atomic_load_n((at), __ATOMIC_ACQUIRE)
#define store(at, value) __atomic_store_n((at), (value), __ATOMIC_RELEASE)
#define full_barrier() __atomic_thread_fence(__ATOMIC_SEQ_CST)

/* -- one request --------------------------------------------------------------------------------------------------------- */

/* Header, sector in one or two parts, status byte: into `chain`, whose first entry has number `first`. */
static unsigned describe(uint64_t slot, vring_desc *chain, uint16_t first)
{
    uint64_t header = HEADERS + slot * SLOT_BYTES, buffer = BUFFERS + slot * BUFFER_BYTES;
    uint32_t split = below(2) ? 1 + below(SECTOR_BYTES - 1) : SECTOR_BYTES;
    unsigned count = 0;
    *(blk_header *)(ram + header) = (blk_header){BLK_T_IN, 0, sector_of[slot]};
    ram[header + BLK_HEADER_BYTES] = UNTOUCHED;
    memset(ram + buffer, UNTOUCHED, SECTOR_BYTES);
    chain[count++] = (vring_desc){header, BLK_HEADER_BYTES, 0, 0};
    chain[count++] = (vring_desc){buffer, split, DESC_WRITE, 0};
    if (split < SECTOR_BYTES)
        chain[count++] = (vring_desc){buffer + split, SECTOR_BYTES - split, DESC_WRITE, 0};
    chain[count++] = (vring_desc){header + BLK_HEADER_BYTES, 1, DESC_WRITE, 0};
    for (unsigned i = 0; i + 1 < count; i++) {
        chain[i].flags |= DESC_NEXT;
        chain[i].next = (uint16_t)(first + i + 1);
    }
    return count;
}

static void start_one(void)
{
    uint64_t slot = free_slots[--free_count];
    uint16_t head = (uint16_t)(given.indirect ? slot : slot * CHAIN_MAX);
    sector_of[slot] = below((uint32_t)given.sectors);
    if (given.indirect) {
        uint64_t table = TABLES + slot * CHAIN_MAX * DESC_BYTES;
        unsigned count = describe(slot, (vring_desc *)(ram + table), 0);
        desc[head] = (vring_desc){table, count * DESC_BYTES, DESC_INDIRECT, 0};
    } else {
        describe(slot, desc + head, head);
    }
    in_flight[slot] = true;
    avail_ring[(uint16_t)(published + started) % given.num] = head;
    started++;
}

static void finish_one(const uint32_t *element)
{
    uint64_t head = element[0], slot = given.indirect ? head : head / CHAIN_MAX;
    check(slot < slots && (given.indirect || head % CHAIN_MAX == 0) && in_flight[slot],
          "a chain came back that was not on its way");
    check(element[1] == SECTOR_BYTES + 1, "used.len is not a sector and a status");
    check(ram[HEADERS + slot * SLOT_BYTES + BLK_HEADER_BYTES] == BLK_S_OK, "the status is not OK");
    const uint64_t *word = (const uint64_t *)(ram + BUFFERS + slot * BUFFER_BYTES);
    for (uint64_t i = 0; i < WORDS; i++)
        check(word[i] == WORDS * sector_of[slot] + i, "the data are not the sector's");
    in_flight[slot] = false;
    free_slots[free_count++] = slot;
    done++;
}

/* -- kick and call ------------------------------------------------------------------------------------------------------- */

/* Has the other side asked to hear of one of the entries from `before` up to, not including, `after`? */
static bool wanted(uint16_t event, uint16_t after, uint16_t before)
{
    return (uint16_t)(after - event - 1) < (uint16_t)(after - before);
}

static void publish(void)
{
    const uint64_t one = 1;
    uint16_t before = published;
    published = (uint16_t)(published + started);
    started = 0;
    store(avail + 1, published);
    full_barrier(); /* avail.idx must be visible before the device's wish is read */
    if (given.event_idx ? wanted(load(avail_event), published, before) : !(load(used) & USED_NO_NOTIFY)) {
        check(write((int)given.kick_fd, &one, sizeof one) == sizeof one, "the kick cannot be written");
        kicks++;
    } else {
        spared++;
    }
}

static void want_calls(bool want)
{
    if (given.event_idx)
        store(used_event, (uint16_t)(want ? reaped : reaped - 1)); /* the next one, or one that is long past */
    else
        store(avail, want ? 0 : AVAIL_NO_INTERRUPT);
}

static void wait_for_call(void)
{
    uint64_t count;
    want_calls(true);
    full_barrier(); /* the wish must be visible before used.idx is read again */
    if (load(used + 1) == reaped) {
        struct pollfd call = {.fd = (int)given.call_fd, .events = POLLIN};
        check(poll(&call, 1, PATIENCE_MS) == 1, "a call or a kick was lost: nothing comes any more");
        waits++;
    }
    if (read((int)given.call_fd, &count, sizeof count) == sizeof count)
        calls += count;
    if (below(2)) /* or stay interested for a while */
        want_calls(false);
}

/* -- all of them ----------------------------------------------------------------------------------------------------------- */

static void go(void)
{
    while (done < given.transfers) {
        uint64_t burst = below(8) ? 1 + below((uint32_t)slots) : slots;
        while (burst-- && free_count && done + (slots - free_count) < given.transfers)
            start_one();
        if (started)
            publish();
        if (load(used + 1) == reaped)
            wait_for_call();
        uint64_t most = below(4) ? slots : 1 + below(4);
        while (most-- && load(used + 1) != reaped)
            finish_one(used_ring + 2 * (reaped++ % given.num));
        check((uint16_t)(published - load(used + 1)) <= slots, "used.idx has passed avail.idx");
    }
    want_calls(false);
}

static void lay_out(void)
{
    uint64_t at = given.pfn << QUEUE_PFN_SHIFT;
    ram = mmap(NULL, given.ram_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, (int)given.ram_fd, 0);
    check(ram != MAP_FAILED, "no guest memory");
    desc = (vring_desc *)(ram + at);
    avail = (uint16_t *)(desc + given.num);
    avail_ring = avail + 2;
    used_event = avail_ring + given.num;
    uint64_t end = (uint64_t)((uint8_t *)(used_event + 1) - ram);
    used = (uint16_t *)(ram + (end + RING_ALIGN - 1) / RING_ALIGN * RING_ALIGN);
    used_ring = (uint32_t *)(used + 2);
    avail_event = (uint16_t *)(used_ring + 2 * given.num);
    slots = given.indirect ? given.num : given.num / CHAIN_MAX;
    check(slots && slots <= SLOTS_MAX && (uint8_t *)(avail_event + 1) <= ram + HEADERS, "no room for such a ring");
    for (uint64_t slot = 0; slot < slots; slot++)
        free_slots[free_count++] = slot;
    published = reaped = load(used + 1);
}

static void read_arguments(int count, char **arguments)
{
    const struct {
        const char *name;
        uint64_t *value;
    } known[] = {
        {"--ram", &given.ram_fd},        {"--ram-bytes", &given.ram_bytes}, {"--pfn", &given.pfn},
        {"--num", &given.num},           {"--kick", &given.kick_fd},        {"--call", &given.call_fd},
        {"--sectors", &given.sectors},   {"--transfers", &given.transfers}, {"--seed", &given.seed},
        {"--indirect", &given.indirect}, {"--event-idx", &given.event_idx},
    };
    for (int i = 1; i + 1 < count; i += 2) {
        unsigned n = 0;
        while (n < sizeof known / sizeof *known && strcmp(known[n].name, arguments[i]) != 0)
            n++;
        check(n < sizeof known / sizeof *known, arguments[i]);
        *known[n].value = strtoull(arguments[i + 1], NULL, 0);
    }
}

int main(int count, char **arguments)
{
    read_arguments(count, arguments);
    given.seed = given.seed * UINT64_C(0x9e3779b97f4a7c15) | 1;
    lay_out();
    go();
    printf("%lu transfers, %lu kicks, %lu spared, %lu calls, %lu waits\n", done, kicks, spared, calls, waits);
    return 0;
}
