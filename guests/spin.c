/* A console driver of the kind that rule R1 is about: it kicks, and spins until the answer is there.
 *
 * Command line: chars=, how many characters to write, and width=, how many in each request.
 * It prints `spin chars= ticks= looks= at_once=` and ends with 0 if the device has taken all of them: ticks of the TSC
 * from before each kick until its answer was seen, looks at used.idx meanwhile, and how often the first look sufficed. */
#include "options.h"
#include "report.h"
#include "virtio_legacy.h"
#include "x86.h"

#define SLOT 0
#define TIMEOUT_TICKS UINT64_C(0x2000000000) /* about a minute */

typedef struct {
    uint64_t requests, ticks, looks, at_once;
} tally;

static _Noreturn void fail(const char *what)
{
    say("spin failed=");
    say(what);
    say("\n");
    finish(1);
}

/* The alphabet, over and over. */
static void fill(uint64_t from, uint32_t width)
{
    for (uint32_t i = 0; i < width; i++)
        store8(slot_buffer(SLOT) + i, (uint8_t)('a' + (from + i) % 26));
}

/* One request and its answer. The looks are what a driver does that expects the kick itself to do the work. */
static void write_and_spin(ring *q, uint32_t width, tally *sum)
{
    completion done;
    uint64_t looks = 1;
    ring_describe_buffers(q, SLOT, width, 0);
    ring_add(q, SLOT, 0);
    ring_publish(q);
    uint64_t start = rdtsc(), until = deadline_after(TIMEOUT_TICKS);
    virtio_kick(&the_device, q->index);
    while (!ring_has_used(q)) {
        looks++;
        relax();
        if (rdtsc() > until)
            fail("no answer");
    }
    sum->ticks += rdtsc() - start;
    sum->looks += looks;
    sum->at_once += looks == 1;
    sum->requests++;
    if (ring_reap(q, &done) != REAPED_ONE)
        fail("a wrong answer");
}

static void report(uint64_t chars, const tally *sum)
{
    say("spin");
    say_pair("chars", chars);
    say_pair("requests", sum->requests);
    say_pair("ticks", sum->ticks);
    say_pair("looks", sum->looks);
    say_pair("at_once", sum->at_once);
    say("\n");
}

_Noreturn void guest_main(uint32_t vcpu, uint32_t vcpus, uint32_t info)
{
    const char *line = command_line(info);
    if (vcpu)
        for (;;)
            __asm__ volatile("cli; hlt");
    uint64_t chars = option_number(line, "chars", 100), width = option_number(line, "width", 1), done = 0;
    if (!width || width > BUFFER_STRIDE)
        fail("width");
    if (virtio_negotiate(&the_device, IRQ_POLL, UINT32_MAX, 0, vcpus) || the_device.queues <= CONSOLE_OUTPUT)
        fail("no console");
    virtio_set_status(&the_device, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_DRIVER_OK);
    tally sum = {0};
    for (uint64_t now; done < chars; done += now) {
        now = chars - done < width ? chars - done : width;
        fill(done, (uint32_t)now);
        write_and_spin(&the_device.rings[CONSOLE_OUTPUT], (uint32_t)now, &sum);
    }
    report(chars, &sum);
    finish(0);
}
