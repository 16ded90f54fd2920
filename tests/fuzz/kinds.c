/* Which kinds of device are fuzzed? One entry each: how a good request of it looks, and what a run leaves behind. */
#include "fuzz.h"
#include <sys/stat.h>

uint64_t header_gpa(void)
{
    return HEADERS_GPA + below(HEADERS) * HEADER_STRIDE;
}

/* A buffer that ends where RAM ends, or anywhere among the buffers. */
vring_desc buffer(uint32_t bytes, bool writable)
{
    uint32_t at = one_in(8) ? BUFFERS_BYTES - bytes : below(BUFFERS_BYTES - bytes + 1);
    return (vring_desc){.gpa = BUFFERS_GPA + at, .bytes = bytes, .flags = writable ? DESC_WRITE : 0};
}

/* -- null ---------------------------------------------------------------------------------------------------------------- */

static unsigned any_request(unsigned queue, vring_desc *parts)
{
    unsigned readable = below(3), writable = below(3) + !readable, count = 0;
    (void)queue;
    while (readable--)
        parts[count++] = buffer(1 + below(600), false);
    while (writable--)
        parts[count++] = buffer(1 + below(600), true);
    return count;
}

/* -- blk ----------------------------------------------------------------------------------------------------------------- */

static void blk_attach(lk_device *device)
{
    device->blk.fd = w.disk_fd;
    device->blk.sectors = DISK_SECTORS;
    device->blk.writable = one_in(2);
}

/* Nobody can write past the end of the disk. */
static void blk_check(void)
{
    struct stat file;
    expect(fstat(w.disk_fd, &file) == 0 && file.st_size == DISK_SECTORS * SECTOR_BYTES, "the disk has grown");
}

static uint32_t blk_type(void)
{
    static const uint32_t often[] = {BLK_T_IN, BLK_T_IN, BLK_T_IN, BLK_T_OUT, BLK_T_OUT, BLK_T_FLUSH, BLK_T_GET_ID};
    return one_in(32) ? (uint32_t)roll() : often[below(sizeof often / sizeof *often)];
}

static uint64_t blk_sector(void)
{
    static const uint64_t odd[] = {DISK_SECTORS - 1, DISK_SECTORS, DISK_SECTORS + 1, UINT64_MAX, UINT64_C(1) << 55};
    return one_in(8) ? odd[below(sizeof odd / sizeof *odd)] : below(DISK_SECTORS);
}

/* Header, possibly in two parts, up to four data buffers, status byte, possibly at the end of the last of them. */
static unsigned blk_request(unsigned queue, vring_desc *parts)
{
    struct {
        uint32_t type, ioprio;
        uint64_t sector;
    } header = {blk_type(), 0, blk_sector()};
    uint64_t gpa = header_gpa();
    bool writable = header.type != BLK_T_OUT;
    unsigned count = 0, buffers = header.type == BLK_T_FLUSH ? 0 : 1 + below(one_in(4) ? 4 : 1);
    uint32_t first = one_in(8) ? 1 + below(BLK_HEADER_BYTES - 1) : BLK_HEADER_BYTES;
    (void)queue;
    store(gpa, &header, sizeof header);
    parts[count++] = (vring_desc){.gpa = gpa, .bytes = first};
    if (first < BLK_HEADER_BYTES)
        parts[count++] = (vring_desc){.gpa = gpa + first, .bytes = BLK_HEADER_BYTES - first};
    while (buffers--)
        parts[count++] = buffer(one_in(8) ? 1 + below(one_in(2) ? 24 : 2000) : SECTOR_BYTES * (1 + below(3)), writable);
    if (writable && count > 1 && one_in(8))
        parts[count - 1].bytes++;
    else
        parts[count++] = buffer(1, true);
    return count;
}

static uint64_t last_status; /* of the last request in a run: its last byte */

/* What it writes of the buffers depends on the disk: all of them may change. */
static bool blk_takes(unsigned queue, const chain *c, forecast *f)
{
    (void)queue;
    if (c->out_bytes < BLK_HEADER_BYTES || !c->in_bytes)
        return false;
    for (unsigned i = 0; i < c->in_count; i++)
        foresee_write(f, c->in[i].gpa, c->in[i].bytes, NULL);
    last_status = c->in[c->in_count - 1].gpa + c->in[c->in_count - 1].bytes - 1;
    foresee_push(f, c, UNKNOWN_BYTES);
    return true;
}

static void blk_ran(unsigned queue, const forecast *f)
{
    (void)queue;
    if (f->certain && f->served)
        expect(w.guest[last_status] <= BLK_S_UNSUPP, "no status in the last request's last byte");
}

const kind kinds[] = {
    {.name = "null", .number = DEVICE_NULL, .queues = RINGS, .request = any_request},
    {.name = "blk",
     .number = DEVICE_BLK,
     .queues = 1,
     .attach = blk_attach,
     .check = blk_check,
     .request = blk_request,
     .serve = blk_takes,
     .ran = blk_ran},
    {.name = "net",
     .number = DEVICE_NET,
     .queues = RINGS,
     .attach = net_attach,
     .detach = net_detach,
     .check = net_check,
     .host = net_host,
     .request = net_request,
     .begin = net_begin,
     .wants = net_wants,
     .serve = net_takes,
     .after = net_after,
     .ran = net_ran},
    {.name = "console",
     .number = DEVICE_CONSOLE,
     .queues = 2,
     .attach = console_attach,
     .detach = console_detach,
     .check = console_check,
     .host = console_host,
     .request = console_request,
     .begin = console_begin,
     .wants = console_wants,
     .serve = console_takes,
     .ran = console_ran},
};
const unsigned kind_count = sizeof kinds / sizeof *kinds;

/* What the core calls of Python. No device here is written in it. */
int lk_python_handle(void *python, unsigned queue)
{
    (void)python, (void)queue;
    return -1;
}
