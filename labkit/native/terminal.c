/* What does virtio-console do with a chain? Output goes to the terminal; what is typed there waits for input buffers. */
#include "queue.h"

/* Byte n of a stream stands at n modulo its size. Everything here is under the big lock. */
struct lk_terminal {
    uint64_t written; /* by the guest, ever */
    uint64_t typed, taken; /* by the host; by the guest */
    uint8_t output[TERMINAL_OUTPUT_MAX], input[TERMINAL_INPUT_MAX];
};

lk_terminal *lk_terminal_new(void)
{
    return calloc(1, sizeof(lk_terminal));
}

void lk_terminal_free(lk_terminal *terminal)
{
    free(terminal);
}

/* How many bytes the guest has written; the last TERMINAL_OUTPUT_MAX of them can be read. */
uint64_t lk_terminal_written(const lk_terminal *terminal)
{
    return terminal->written;
}

/* Copies from byte `from` on, which is among those that can be read. Returns how many. */
uint32_t lk_terminal_read(const lk_terminal *terminal, uint64_t from, char *out, uint32_t most)
{
    uint32_t count = 0;
    while (count < most && from < terminal->written && terminal->written - from <= TERMINAL_OUTPUT_MAX)
        out[count++] = (char)terminal->output[from++ % TERMINAL_OUTPUT_MAX];
    return count;
}

uint32_t lk_terminal_waiting(const lk_terminal *terminal)
{
    return (uint32_t)(terminal->typed - terminal->taken);
}

/* All of it or nothing: 0, or -ENOSPC. The input queue is run by whoever calls. */
int lk_terminal_type(lk_terminal *terminal, const char *text, uint32_t bytes)
{
    if (bytes > TERMINAL_INPUT_MAX - lk_terminal_waiting(terminal))
        return -ENOSPC;
    for (uint32_t i = 0; i < bytes; i++)
        terminal->input[terminal->typed++ % TERMINAL_INPUT_MAX] = (uint8_t)text[i];
    return 0;
}

/* The newest bytes stay. A chain may claim terabytes by naming the same memory again and again: what would be
 * overwritten by its own end is counted, not copied. */
static void show(lk_terminal *terminal, const struct lk_chain *chain)
{
    uint64_t skip = chain->out_bytes > TERMINAL_OUTPUT_MAX ? chain->out_bytes - TERMINAL_OUTPUT_MAX : 0;
    for (uint32_t part = 0; part < chain->out_count; part++) {
        const uint8_t *bytes = chain->out[part].iov_base;
        uint64_t length = chain->out[part].iov_len, unseen = skip < length ? skip : length;
        skip -= unseen;
        terminal->written += unseen;
        for (uint64_t i = unseen; i < length; i++)
            terminal->output[terminal->written++ % TERMINAL_OUTPUT_MAX] = bytes[i];
    }
}

static uint32_t hand_over(lk_terminal *terminal, const struct lk_chain *chain)
{
    uint64_t before = terminal->taken;
    for (uint32_t part = 0; part < chain->in_count; part++) {
        uint8_t *bytes = chain->in[part].iov_base;
        for (uint64_t i = 0; i < chain->in[part].iov_len && terminal->taken < terminal->typed; i++)
            bytes[i] = terminal->input[terminal->taken++ % TERMINAL_INPUT_MAX];
    }
    return (uint32_t)(terminal->taken - before);
}

/* An input buffer stays with the guest until something is typed. There are no other queues, whatever a guest kicks. */
static int wanted(const lk_device *device, const lk_vq *vq)
{
    return vq->index == CONSOLE_OUTPUT || (vq->index == CONSOLE_INPUT && lk_terminal_waiting(device->terminal));
}

static void serve_one(lk_device *device, lk_vq *vq)
{
    struct lk_chain *chain = device->chain;
    uint64_t shown = 0;
    uint32_t given = 0;
    if (vq->index == CONSOLE_OUTPUT) {
        shown = chain->out_bytes;
        show(device->terminal, chain);
    } else {
        given = hand_over(device->terminal, chain);
    }
    vq->requests++;
    lk_feed_emit(device->machine->feed, EV_CHAIN, vq->index, chain->head, shown, given, 0, 0);
    queue_push_chain(device, vq, given);
}

/* As a disk serves: until the ring is empty, one interrupt at the end, and a stop cuts it short between two chains. */
void console_serve(lk_device *device, lk_vq *vq)
{
    int done = 0;
    while (wanted(device, vq) && queue_pop(device, vq) > 0) {
        serve_one(device, vq);
        done = 1;
        if (load_relaxed(&device->stopping)) {
            vq->unfinished = 1;
            break;
        }
    }
    if (done)
        queue_interrupt(device, vq);
}
