/* How does a device written in Python get at its chains? It is called back under the big lock, and takes copies of them.
 *
 * The calling thread has the big lock and not the GIL; the callback takes the GIL. That order is safe because nobody
 * waits for the big lock with the GIL held: every call into the core has let go of it. */
#include "dirty.h"
#include "queue.h"

/* Made by cffi; labkit/virtio/devices/python.py is behind it, and handles whatever fails there. 1: call again, for the
 * device has taken as many chains as one call may. */
int lk_python_handle(void *python, unsigned queue);

/* A chain that outlives the next pop: the parts of device->chain, the readable ones first. */
typedef struct {
    lk_taken chain;
    lk_machine *machine;
    struct iovec parts[];
} taken;

/* A stop comes between two calls, so that a guest that adds for ever cannot keep the big lock for ever. */
void python_serve(lk_device *device, lk_vq *vq)
{
    while (device->python && !device->broken && lk_python_handle(device->python, vq->index)) {
        if (load_relaxed(&device->stopping)) {
            vq->unfinished = 1;
            break;
        }
    }
}

static taken *copy_of(const struct lk_chain *chain, lk_machine *machine)
{
    taken *copy = malloc(sizeof *copy + (chain->out_count + chain->in_count) * sizeof *copy->parts);
    if (!copy)
        return NULL;
    copy->chain = (lk_taken){chain->head, chain->out_count, chain->in_count, chain->out_bytes, chain->in_bytes};
    copy->machine = machine;
    memcpy(copy->parts, chain->out, chain->out_count * sizeof *copy->parts);
    memcpy(copy->parts + chain->out_count, chain->in, chain->in_count * sizeof *copy->parts);
    return copy;
}

/* NULL: none there, or the guest broke its ring. All functions from here on are called from inside lk_python_handle,
 * under the big lock. */
lk_taken *lk_python_pop(lk_device *device, unsigned queue)
{
    lk_vq *vq = &device->vq[queue % QUEUE_MAX];
    if (!vq->desc || device->broken || queue_pop(device, vq) <= 0)
        return NULL;
    taken *copy = copy_of(device->chain, device->machine);
    if (!copy)
        device_break(device, vq, BROKEN_DEVICE_CODE, device->chain->head);
    return (lk_taken *)copy;
}

void lk_taken_free(lk_taken *chain)
{
    free(chain);
}

/* Moves up to `bytes` between the readable (out) or the writable parts, from their byte `from` on, and a plain buffer.
 * Returns how many. */
static uint64_t move(const taken *copy, uint64_t from, uint8_t *plain, uint64_t bytes, int out)
{
    const struct iovec *parts = out ? copy->parts : copy->parts + copy->chain.out_count;
    uint32_t count = out ? copy->chain.out_count : copy->chain.in_count;
    uint64_t moved = 0;
    for (uint32_t i = 0; i < count && moved < bytes; i++) {
        if (from >= parts[i].iov_len) {
            from -= parts[i].iov_len;
            continue;
        }
        uint8_t *guest = (uint8_t *)parts[i].iov_base + from;
        uint64_t here = parts[i].iov_len - from, now = here < bytes - moved ? here : bytes - moved;
        memcpy(out ? plain + moved : guest, out ? guest : plain + moved, now);
        if (!out)
            dirtied(copy->machine, guest, now);
        moved += now;
        from = 0;
    }
    return moved;
}

uint64_t lk_taken_read(const lk_taken *chain, uint64_t from, void *out, uint64_t most)
{
    return move((const taken *)chain, from, out, most, 1);
}

uint64_t lk_taken_write(const lk_taken *chain, uint64_t from, const void *data, uint64_t bytes)
{
    return move((const taken *)chain, from, (uint8_t *)(uintptr_t)data, bytes, 0);
}

void lk_python_push(lk_device *device, unsigned queue, const lk_taken *chain, uint32_t written)
{
    lk_vq *vq = &device->vq[queue % QUEUE_MAX];
    if (device->broken) /* what the guest's ring has become is not to be written to */
        return;
    vq->requests++;
    lk_feed_emit(device->machine->feed, EV_CHAIN, vq->index, chain->head, chain->out_bytes, written, 0, 0);
    queue_push(device, vq, chain->head, written);
}

void lk_python_interrupt(lk_device *device, unsigned queue)
{
    queue_interrupt(device, &device->vq[queue % QUEUE_MAX]);
}

void lk_python_fail(lk_device *device, unsigned queue)
{
    device_break(device, &device->vq[queue % QUEUE_MAX], BROKEN_DEVICE_CODE, 0);
}
