/* What does virtio-blk do with a chain? Parse it, run it against the image, answer with used.len and a status byte. */
#include "queue.h"
#include <limits.h>
#include <sys/prctl.h>
#include <sys/uio.h>
#include <time.h>

#ifndef IOV_MAX
#define IOV_MAX 1024
#endif

typedef struct {
    uint32_t type, ioprio;
    uint64_t sector;
} blk_header;

typedef struct {
    blk_header header;
    uint8_t *status; /* last byte the guest lets us write */
    struct iovec *data;
    uint32_t count;
    uint64_t bytes;
} blk_request;

/* Takes `bytes` off the front of a vector into `to`; returns the parts used up, or -1 if it is too short. */
static int take_front(struct iovec *parts, uint32_t count, void *to, size_t bytes)
{
    uint32_t i = 0;
    for (uint8_t *out = to; bytes && i < count; i += !parts[i].iov_len) {
        size_t part = parts[i].iov_len < bytes ? parts[i].iov_len : bytes;
        memcpy(out, parts[i].iov_base, part);
        out += part;
        bytes -= part;
        parts[i].iov_base = (uint8_t *)parts[i].iov_base + part;
        parts[i].iov_len -= part;
    }
    return bytes ? -1 : (int)i;
}

/* The header stands first, the status byte last; what lies between is data in the direction of the type. */
static int parse(struct lk_chain *chain, blk_request *request)
{
    int used_up = take_front(chain->out, chain->out_count, &request->header, BLK_HEADER_BYTES);
    if (used_up < 0 || !chain->in_count)
        return -1;
    struct iovec *last = &chain->in[chain->in_count - 1];
    request->status = (uint8_t *)last->iov_base + --last->iov_len;
    if (request->header.type == BLK_T_OUT) {
        request->data = chain->out + used_up;
        request->count = chain->out_count - (uint32_t)used_up;
        request->bytes = chain->out_bytes - BLK_HEADER_BYTES;
    } else {
        request->data = chain->in;
        request->count = chain->in_count - !last->iov_len;
        request->bytes = chain->in_bytes - 1;
    }
    return 0;
}

static int inside_disk(const lk_blk *blk, const blk_request *request)
{
    uint64_t sectors = request->bytes / SECTOR_BYTES;
    return request->bytes % SECTOR_BYTES == 0 && request->header.sector <= blk->sectors &&
           sectors <= blk->sectors - request->header.sector;
}

#define SLACK_NS 1

/* A slow disk: whoever runs the queue waits for it. By default the kernel lets a thread sleep up to 50 us longer than it
 * asked; one that runs queues asks for less. */
void lk_be_slow(uint64_t delay_ns)
{
    static __thread int punctual;
    struct timespec left = {.tv_sec = (time_t)(delay_ns / 1000000000u), .tv_nsec = (long)(delay_ns % 1000000000u)};
    if (!punctual)
        punctual = !prctl(PR_SET_TIMERSLACK, SLACK_NS);
    while (clock_nanosleep(CLOCK_MONOTONIC, 0, &left, &left) == EINTR)
        ; /* a signal does not make the disk faster */
}

/* Moves all bytes or fails; the kernel takes IOV_MAX parts at a time and may do less than asked. */
static int transfer(const lk_blk *blk, blk_request *request)
{
    off_t at = (off_t)(request->header.sector * SECTOR_BYTES);
    struct iovec *part = request->data;
    uint32_t left = request->count;
    if (blk->delay_ns)
        lk_be_slow(blk->delay_ns);
    while (left) {
        int now = left < IOV_MAX ? (int)left : IOV_MAX;
        ssize_t moved =
            request->header.type == BLK_T_OUT ? pwritev(blk->fd, part, now, at) : preadv(blk->fd, part, now, at);
        if (moved < 0 && errno == EINTR)
            continue;
        if (moved <= 0)
            return -1;
        at += moved;
        for (; left && (size_t)moved >= part->iov_len; part++, left--)
            moved -= (ssize_t)part->iov_len;
        if (left) {
            part->iov_base = (uint8_t *)part->iov_base + moved;
            part->iov_len -= (size_t)moved;
        }
    }
    return 0;
}

static uint8_t execute(const lk_blk *blk, blk_request *request)
{
    switch (request->header.type) {
    case BLK_T_IN:
        return inside_disk(blk, request) && !transfer(blk, request) ? BLK_S_OK : BLK_S_IOERR;
    case BLK_T_OUT:
        return blk->writable && inside_disk(blk, request) && !transfer(blk, request) ? BLK_S_OK : BLK_S_IOERR;
    case BLK_T_FLUSH:
        return fdatasync(blk->fd) == 0 || errno == EINVAL || errno == EROFS ? BLK_S_OK : BLK_S_IOERR;
    case BLK_T_GET_ID:
        if (!request->count || request->data[0].iov_len < BLK_ID_BYTES)
            return BLK_S_IOERR;
        memcpy(request->data[0].iov_base, blk->id, BLK_ID_BYTES);
        return BLK_S_OK;
    default:
        return BLK_S_UNSUPP;
    }
}

static uint32_t bytes_written(const blk_request *request, uint8_t status)
{
    uint64_t data = 0;
    if (status == BLK_S_OK && request->header.type == BLK_T_IN)
        data = request->bytes;
    else if (status == BLK_S_OK && request->header.type == BLK_T_GET_ID)
        data = BLK_ID_BYTES;
    return (uint32_t)data + 1; /* the status byte */
}

static int serve_one(lk_device *device, lk_vq *vq)
{
    blk_request request;
    if (parse(device->chain, &request)) {
        device_break(device, vq, BROKEN_REQUEST_HEADER, device->chain->head);
        return -1;
    }
    uint8_t status = execute(&device->blk, &request);
    *request.status = status;
    vq->requests++;
    if (__builtin_expect(device->mutations & MUTATE_LOOKS_EARLY, 0))
        queue_look_early(device, vq);
    lk_feed_emit(device->machine->feed, EV_REQUEST, vq->index, request.header.type, request.header.sector,
                 request.bytes, status, device->chain->head);
    queue_push_chain(device, vq, bytes_written(&request, status));
    return 0;
}

static int cut_short(const lk_device *device)
{
    return load_relaxed(&device->stopping) || (device->blk.delay_ns && load_relaxed(&device->hurry));
}

/* Serves until the ring is empty, with one interrupt at the end; a slow disk tells of each request, for the next takes
 * its time. A stop cuts it short between two requests, so that a guest that adds for ever cannot keep the big lock for
 * ever; the rest is run on resume. */
void blk_serve(lk_device *device, lk_vq *vq)
{
    int done = 0, got;
    while ((got = queue_pop(device, vq)) > 0 && !serve_one(device, vq)) {
        done = 1;
        if (device->blk.delay_ns) {
            queue_interrupt(device, vq);
            done = 0;
        }
        if (cut_short(device)) {
            vq->unfinished = 1;
            break;
        }
    }
    if (done)
        queue_interrupt(device, vq);
}
