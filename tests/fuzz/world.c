/* What can a device reach? Guest RAM between two edges that are poisoned, with a copy of what must be in it. */
#include "fuzz.h"
#include <sanitizer/asan_interface.h>
#include <sys/eventfd.h>

#define EDGE 0xc5
#define ALL_BYTES (EDGE_BYTES + RAM_BYTES + EDGE_BYTES)
#define FEED_RECORDS (1 << 14)

world w;
static uint8_t *view; /* the guest's mapping, edges included */
static uint8_t *whole; /* the core's */
static uint8_t untouched[EDGE_BYTES]; /* an edge as it was */
static uint64_t dice;

void dice_seed(uint64_t seed)
{
    dice = seed;
}

/* splitmix64 */
uint64_t roll(void)
{
    uint64_t z = dice += UINT64_C(0x9e3779b97f4a7c15);
    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

uint32_t below(uint32_t sides)
{
    return (uint32_t)((roll() >> 32) * sides >> 32);
}

bool one_in(uint32_t sides)
{
    return below(sides) == 0;
}

static void *map(int fd, uint64_t bytes)
{
    void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    expect(at != MAP_FAILED, "mmap: %s", strerror(errno));
    return at;
}

/* Every sector says its number. */
static int new_disk(void)
{
    int fd = memfd_create("fuzz-disk", MFD_CLOEXEC);
    for (uint8_t sector = 0; sector < DISK_SECTORS; sector++) {
        uint8_t bytes[SECTOR_BYTES];
        memset(bytes, sector, sizeof bytes);
        expect(pwrite(fd, bytes, sizeof bytes, sector * SECTOR_BYTES) == sizeof bytes, "disk: %s", strerror(errno));
    }
    return fd;
}

void world_open(void)
{
    w.memfd = memfd_create("fuzz-ram", MFD_CLOEXEC);
    expect(ftruncate(w.memfd, ALL_BYTES) == 0, "ftruncate: %s", strerror(errno));
    w.disk_fd = new_disk();
    view = map(w.memfd, ALL_BYTES);
    memset(view, EDGE, ALL_BYTES);
    memset(untouched, EDGE, EDGE_BYTES);
    w.guest = view + EDGE_BYTES;
    w.shadow = malloc(RAM_BYTES);
    w.machine = lk_machine_new(w.memfd, ALL_BYTES, FEED_RECORDS);
    expect(w.shadow && w.machine, "no memory");
    whole = w.machine->memory.host;
    __asan_poison_memory_region(whole, EDGE_BYTES);
    __asan_poison_memory_region(whole + EDGE_BYTES + RAM_BYTES, EDGE_BYTES);
    w.machine->memory.host = whole + EDGE_BYTES;
    w.machine->memory.bytes = RAM_BYTES;
    accept_all();
}

static void free_device(void)
{
    for (unsigned q = 0; w.device && q < QUEUE_MAX; q++)
        if (w.device->vq[q].notifier_fd >= 0)
            close(w.device->vq[q].notifier_fd);
    for (unsigned v = 0; w.device && v < VECTORS; v++)
        close(w.device->vectors[v].fd);
    if (w.device && w.kind->detach)
        w.kind->detach(w.device);
    lk_device_free(w.device);
    w.device = NULL;
}

void world_close(void)
{
    free_device();
    __asan_unpoison_memory_region(whole, ALL_BYTES);
    w.machine->memory.host = whole;
    w.machine->memory.bytes = ALL_BYTES;
    lk_machine_free(w.machine);
    munmap(view, ALL_BYTES);
    free(w.shadow);
    close(w.memfd);
    close(w.disk_fd);
}

/* As the devices have them, powers of two; and one at which the two bytes behind the avail ring decide where the used
 * ring begins. */
uint16_t some_size(void)
{
    return one_in(16) ? 910 : (uint16_t)(1u << below(11));
}

void new_device(const kind *which)
{
    free_device();
    w.device = lk_device_new(w.machine, which->number);
    expect(w.device, "no memory");
    w.kind = which;
    w.was_broken = false;
    memset(w.queues, 0, sizeof w.queues);
    for (unsigned v = 0; v < VECTORS; v++)
        w.device->vectors[v].fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    for (unsigned q = 0; q < which->queues; q++)
        w.device->vq[q].num = some_size();
    if (which->attach)
        which->attach(w.device);
}

/* -- the guest's stores and loads; what lies outside RAM is lost, or reads as zero ----------------------------------- */

static uint64_t inside(uint64_t gpa, uint64_t bytes)
{
    if (gpa >= RAM_BYTES)
        return 0;
    return bytes < RAM_BYTES - gpa ? bytes : RAM_BYTES - gpa;
}

void store(uint64_t gpa, const void *from, uint64_t bytes)
{
    uint64_t room = inside(gpa, bytes);
    if (room) {
        memcpy(w.guest + gpa, from, room);
        memcpy(w.shadow + gpa, from, room);
    }
}

void load(uint64_t gpa, void *to, uint64_t bytes)
{
    uint64_t room = inside(gpa, bytes);
    memset(to, 0, bytes);
    if (room)
        memcpy(to, w.guest + gpa, room);
}

/* -- what may have changed, and nothing else ---------------------------------------------------------------------------- */

void accept_change(uint64_t gpa, uint64_t bytes)
{
    uint64_t room = inside(gpa, bytes);
    if (room)
        memcpy(w.shadow + gpa, w.guest + gpa, room);
}

/* There must be this now. */
void must_hold(uint64_t gpa, const void *from, uint64_t bytes)
{
    uint64_t room = inside(gpa, bytes);
    if (room)
        memcpy(w.shadow + gpa, from, room);
}

void accept_all(void)
{
    memcpy(w.shadow, w.guest, RAM_BYTES);
}

static void check_edge(const uint8_t *edge, const char *which, const char *when)
{
    expect(!memcmp(edge, untouched, EDGE_BYTES), "written %s RAM, %s", which, when);
}

void check_memory(const char *when)
{
    check_edge(view, "before", when);
    check_edge(view + EDGE_BYTES + RAM_BYTES, "behind", when);
    if (memcmp(w.guest, w.shadow, RAM_BYTES) == 0)
        return;
    uint64_t at = 0;
    while (w.guest[at] == w.shadow[at])
        at++;
    fail("written where no chain allows it: gpa %#lx holds %#x for %#x, %s", at, w.guest[at], w.shadow[at], when);
}
