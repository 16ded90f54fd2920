/* What does virtio-console do with a chain? What is typed is told by its place in the stream, and so is what arrives. */
#include "fuzz.h"

#define TAIL 64 /* bytes of the output that are compared */

static uint64_t typed; /* ever, by the harness */
static struct {
    uint64_t taken, written;
    uint8_t tail[TAIL];
} expected;

static uint8_t letter(uint64_t place)
{
    return (uint8_t)(place * 167 + place / 256);
}

void console_attach(lk_device *device)
{
    device->terminal = lk_terminal_new();
    expect(device->terminal, "no memory");
    typed = 0;
}

void console_detach(lk_device *device)
{
    lk_terminal_free(device->terminal);
}

void console_check(void)
{
    uint32_t waits = lk_terminal_waiting(w.device->terminal);
    expect(waits <= TERMINAL_INPUT_MAX && waits <= typed, "%u bytes wait, %lu were typed", waits, typed);
}

/* All of it or nothing; then the input queue is run, as whoever types does. */
void console_host(void)
{
    static uint8_t text[TERMINAL_INPUT_MAX + 1];
    uint32_t bytes = one_in(8) ? below(sizeof text + 1) : 1 + below(one_in(2) ? 8 : 2000);
    uint32_t room = TERMINAL_INPUT_MAX - lk_terminal_waiting(w.device->terminal);
    for (uint32_t i = 0; i < bytes; i++)
        text[i] = letter(typed + i);
    int result = lk_terminal_type(w.device->terminal, (const char *)text, bytes);
    expect(result == (bytes <= room ? 0 : -ENOSPC), "%u bytes typed into room for %u: %d", bytes, room, result);
    typed += result ? 0 : bytes;
    run.typed += result ? 0 : bytes;
    run_locked(CONSOLE_INPUT, RUN_HOST);
}

unsigned console_request(unsigned queue, vring_desc *parts)
{
    unsigned count = 1 + below(3);
    if (queue == CONSOLE_OUTPUT && one_in(60)) { /* more than the terminal keeps */
        for (count = 0; count < PARTS_MAX - 1; count++)
            parts[count] = buffer(BUFFERS_BYTES, false);
        parts[count++] = buffer(1 + below(40), false);
        return count;
    }
    for (unsigned i = 0; i < count; i++)
        parts[i] = buffer(1 + below(one_in(8) ? 8000 : 40), queue == CONSOLE_INPUT);
    return count;
}

/* -- the model -------------------------------------------------------------------------------------------------------- */

void console_begin(void)
{
    expected.taken = typed - lk_terminal_waiting(w.device->terminal);
    expected.written = lk_terminal_written(w.device->terminal);
    memset(expected.tail, 0, sizeof expected.tail);
    uint32_t bytes = expected.written < TAIL ? (uint32_t)expected.written : TAIL;
    lk_terminal_read(w.device->terminal, expected.written - bytes, (char *)expected.tail + TAIL - bytes, bytes);
}

/* Without anything typed an input buffer stays where it is. */
bool console_wants(unsigned queue)
{
    return queue == CONSOLE_OUTPUT || expected.taken < typed;
}

static void show(const span *part)
{
    uint64_t bytes = part->bytes < TAIL ? part->bytes : TAIL;
    memmove(expected.tail, expected.tail + bytes, TAIL - bytes);
    load(part->gpa + part->bytes - bytes, expected.tail + TAIL - bytes, bytes);
    expected.written += part->bytes;
}

bool console_takes(unsigned queue, const chain *c, forecast *f)
{
    static uint8_t text[TERMINAL_INPUT_MAX];
    uint32_t bytes = 0;
    for (unsigned i = 0; queue == CONSOLE_OUTPUT && i < c->out_count; i++) {
        foresee_read(f, c->out[i].gpa, c->out[i].bytes);
        show(&c->out[i]);
    }
    if (queue == CONSOLE_INPUT) {
        while (bytes < c->in_bytes && expected.taken < typed)
            text[bytes++] = letter(expected.taken++);
        foresee_scatter(f, c, text, bytes);
    }
    foresee_push(f, c, bytes);
    return true;
}

void console_ran(unsigned queue, const forecast *f)
{
    uint8_t tail[TAIL] = {0};
    uint64_t written = lk_terminal_written(w.device->terminal);
    if (!f->certain)
        return;
    expect(lk_terminal_waiting(w.device->terminal) == typed - expected.taken, "queue %u: %u bytes wait, foreseen %lu",
           queue, lk_terminal_waiting(w.device->terminal), typed - expected.taken);
    expect(written == expected.written, "queue %u: %lu bytes written, foreseen %lu", queue, written, expected.written);
    uint32_t bytes = written < TAIL ? (uint32_t)written : TAIL;
    lk_terminal_read(w.device->terminal, written - bytes, (char *)tail + TAIL - bytes, bytes);
    expect(!memcmp(tail, expected.tail, TAIL), "queue %u: the terminal does not show what was written", queue);
}
