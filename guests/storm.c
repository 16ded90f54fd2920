/* The load generator on its own: it needs no notebook, so another VMM can boot it too.
 *
 * Command line: requests= depth= bytes= type=read|write irq=msix|intx|poll, and batches= kicks= for a kick loop first.
 * It prints lines of `storm key=value ...` and ends with 0 if all went well. */
#include "load.h"
#include "options.h"
#include "report.h"
#include "x86.h"

#define TIMEOUT_TICKS UINT64_C(0x2000000000) /* about a minute */

static _Noreturn void fail(const char *what, uint32_t status)
{
    say("storm failed=");
    say(what);
    say_pair("status", status);
    say("\n");
    finish(1);
}

static void kicks(const char *line)
{
    uint64_t count = option_number(line, "kicks", 1000);
    for (uint64_t batches = option_number(line, "batches", 0); batches; batches--) {
        uint64_t ticks = kick_loop(the_device.bar0 + REG_QUEUE_NOTIFY, QUEUE_NOTIFY_WIDTH, 0, count);
        say("storm");
        say_pair("kicks", count);
        say_pair("ticks", ticks);
        say("\n");
    }
}

static void requests(const char *line)
{
    load_plan plan = {
        .requests = option_number(line, "requests", 0),
        .depth = (uint32_t)option_number(line, "depth", 1),
        .type = option_is(line, "type", "write") ? BLK_T_OUT : BLK_T_IN,
        .bytes = (uint32_t)option_number(line, "bytes", SECTOR_BYTES),
        .vcpus = 1,
        .timeout_ticks = TIMEOUT_TICKS,
        .sectors = virtio_capacity(&the_device),
    };
    load_result result;
    uint32_t failed = load_run(&the_device, &plan, 0, &result);
    if (failed)
        fail("load", failed);
    say("storm");
    say_pair("requests", result.completed);
    say_pair("depth", plan.depth);
    say_pair("ticks", result.ticks);
    say_pair("errors", result.errors);
    say_pair("kicks", result.kicks);
    say_pair("interrupts", result.interrupts);
    say("\n");
}

_Noreturn void guest_main(uint32_t vcpu, uint32_t vcpus, uint32_t info)
{
    uint64_t start = rdtsc();
    const char *line = command_line(info);
    if (vcpu)
        for (;;)
            __asm__ volatile("cli; hlt");
    uint32_t irq = option_is(line, "irq", "poll") ? IRQ_POLL : option_is(line, "irq", "intx") ? IRQ_INTX : IRQ_MSIX;
    uint32_t failed = virtio_negotiate(&the_device, irq, UINT32_MAX, 0, vcpus);
    if (failed)
        fail("negotiate", failed);
    virtio_set_status(&the_device, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_DRIVER_OK);
    uint64_t up = rdtsc();
    say("storm");
    say_pair("driver_ok_ticks", up - start);
    say_pair("irq", the_device.irq);
    say("\n");
    kicks(line);
    if (option_number(line, "requests", 0))
        requests(line);
    finish(0);
}
