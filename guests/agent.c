/* The guest that a notebook drives: it parks, is told one step of the driver, does it, answers, and parks again.
 *
 * The commands and their arguments are in include/abi.h. Nothing here is trusted by the host; what the host asks is
 * checked here all the same, for a slip in a cell should get an answer and not a dead guest. */
#include "irq.h"
#include "load.h"
#include "options.h"
#include "pci.h"
#include "report.h"
#include "script.h"
#include "serial.h"
#include "steps.h"
#include "virtio_legacy.h"
#include "x86.h"

static virtio_device *const v = &the_device;

static uint32_t queue_ready(uint64_t queue)
{
    return !v->queues ? AGENT_NO_DEVICE : queue >= v->queues ? AGENT_NO_QUEUE : AGENT_OK;
}

/* -- bring-up --------------------------------------------------------------------------------------------------------- */

static uint32_t negotiate(const context *self, const uint64_t *a, uint64_t *r)
{
    if (a[0] > IRQ_INTX || a[2] > QUEUE_MAX)
        return AGENT_BAD_ARGUMENT;
    uint32_t result = virtio_negotiate(v, (uint32_t)a[0], (uint32_t)a[1], (uint32_t)a[2], self->vcpus);
    if (result)
        return result;
    r[0] = v->offered;
    r[1] = v->accepted;
    r[2] = v->queues;
    r[3] = v->bar0;
    r[4] = a[3] ? virtio_set_status(v, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_DRIVER_OK) : virtio_status(v);
    return AGENT_OK;
}

static uint32_t set_status(const context *self, const uint64_t *a, uint64_t *r)
{
    (void)self;
    if (!v->bar0)
        return AGENT_NO_DEVICE;
    if (a[0] > UINT8_MAX)
        return AGENT_BAD_ARGUMENT;
    r[0] = virtio_set_status(v, (uint8_t)a[0]);
    return AGENT_OK;
}

static uint32_t driver_ok(const context *self, const uint64_t *a, uint64_t *r)
{
    (void)self;
    if (!v->bar0)
        return AGENT_NO_DEVICE;
    uint8_t status = virtio_status(v);
    r[0] = virtio_set_status(v, a[0] ? status | STATUS_DRIVER_OK : status & (uint8_t)~STATUS_DRIVER_OK);
    return AGENT_OK;
}

static uint32_t reset(const context *self, const uint64_t *a, uint64_t *r)
{
    (void)self, (void)a;
    if (!v->bar0)
        return AGENT_NO_DEVICE;
    v->queues = 0;
    r[0] = virtio_set_status(v, 0);
    return AGENT_OK;
}

static uint32_t bus_master(const context *self, const uint64_t *a, uint64_t *r)
{
    (void)self;
    if (!v->function)
        return AGENT_NO_DEVICE;
    uint32_t command = pci_read(v->function, PCI_COMMAND, 2);
    if (a[0] > BUS_MASTER_AS_IT_IS)
        return AGENT_BAD_ARGUMENT;
    if (a[0] != BUS_MASTER_AS_IT_IS)
        command = a[0] ? command | PCI_COMMAND_MASTER : command & ~PCI_COMMAND_MASTER;
    pci_write(v->function, PCI_COMMAND, 2, command);
    r[0] = pci_read(v->function, PCI_COMMAND, 2);
    return AGENT_OK;
}

/* -- a request, step by step ------------------------------------------------------------------------------------------ */

static bool good_request(const uint64_t *a)
{
    return a[1] <= UINT32_MAX && a[3] <= BUFFER_STRIDE;
}

/* The queues share the slots, and a queue reaches as many as it has descriptors for. q->slots: none is free. */
static uint32_t free_slot(const ring *q)
{
    uint64_t idle = ~virtio_busy_slots(v) & ~UINT64_C(1); /* slot 0 belongs to whole requests */
    uint32_t slot = idle ? lowest_bit(idle) : REQUEST_SLOTS;
    return slot < q->slots ? slot : q->slots;
}

static void answer_added(const ring *q, uint32_t slot, uint64_t *r)
{
    r[0] = q->avail->ring[(uint16_t)(q->added - 1) % q->num];
    r[1] = slot;
    r[2] = slot_buffer(slot);
}

static uint32_t add(const context *self, const uint64_t *a, uint64_t *r)
{
    (void)self;
    uint32_t refused = queue_ready(a[0]);
    if (refused)
        return refused;
    if (!good_request(a) || a[4] > 1)
        return AGENT_BAD_ARGUMENT;
    if (a[4] && !(v->accepted >> FEATURE_INDIRECT_DESC & 1))
        return AGENT_NO_FEATURE;
    ring *q = &v->rings[a[0]];
    uint32_t slot = free_slot(q);
    if (slot == q->slots)
        return AGENT_RING_FULL;
    ring_describe(q, slot, (uint32_t)a[1], (uint32_t)a[3]);
    if (a[4])
        ring_indirect(q, slot);
    ring_add(q, slot, a[2]);
    answer_added(q, slot, r);
    return AGENT_OK;
}

/* A request to a device that is no disk: nothing but bytes to read and room to write. */
static uint32_t add_buffers(const context *self, const uint64_t *a, uint64_t *r)
{
    (void)self;
    uint32_t refused = queue_ready(a[0]);
    if (refused)
        return refused;
    if (a[1] > BUFFER_STRIDE || a[2] > BUFFER_STRIDE || a[1] + a[2] > BUFFER_STRIDE || !(a[1] + a[2]))
        return AGENT_BAD_ARGUMENT;
    ring *q = &v->rings[a[0]];
    uint32_t slot = free_slot(q);
    if (slot == q->slots)
        return AGENT_RING_FULL;
    ring_describe_buffers(q, slot, (uint32_t)a[1], (uint32_t)a[2]);
    ring_add(q, slot, 0);
    answer_added(q, slot, r);
    return AGENT_OK;
}

static uint32_t publish(const context *self, const uint64_t *a, uint64_t *r)
{
    (void)self;
    uint32_t refused = queue_ready(a[0]);
    if (refused)
        return refused;
    if (a[1] > PUBLISH_END)
        return AGENT_BAD_ARGUMENT;
    ring *q = &v->rings[a[0]];
    r[1] = (uint16_t)(q->added - q->avail->idx);
    bool wanted = false;
    if (a[1] == PUBLISH_BEGIN)
        ring_publish_begin(q);
    else
        wanted = a[1] == PUBLISH_END ? ring_publish_end(q) : ring_publish(q);
    r[0] = q->avail->idx;
    r[2] = wanted;
    if (a[1] != PUBLISH_ONLY && wanted)
        virtio_kick(v, q->index);
    return AGENT_OK;
}

static uint32_t kick(const context *self, const uint64_t *a, uint64_t *r)
{
    (void)self;
    if (!v->bar0)
        return AGENT_NO_DEVICE;
    if (a[0] >= QUEUE_MAX || a[1] > UINT32_MAX)
        return AGENT_BAD_ARGUMENT;
    r[0] = kick_loop(v->bar0 + REG_QUEUE_NOTIFY, QUEUE_NOTIFY_WIDTH, (uint32_t)a[0], a[1]);
    return AGENT_OK;
}

static uint32_t reap_until(ring *q, uint64_t count, uint64_t until, completion *last, uint64_t *reaped)
{
    for (*reaped = 0; *reaped < count; ++*reaped) {
        if (!virtio_wait(v, q, until))
            return AGENT_TIMEOUT;
        if (ring_reap(q, last) == REAPED_BAD)
            return AGENT_BAD_USED;
    }
    return AGENT_OK;
}

static uint32_t wait(const context *self, const uint64_t *a, uint64_t *r)
{
    (void)self;
    uint32_t refused = queue_ready(a[0]);
    if (refused)
        return refused;
    completion last = {0};
    uint64_t interrupts = device_interrupts;
    uint32_t result = reap_until(&v->rings[a[0]], a[1], deadline_after(a[2]), &last, &r[0]);
    r[1] = last.head;
    r[2] = last.bytes;
    r[3] = last.status;
    r[4] = device_interrupts - interrupts;
    r[5] = last.slot;
    return result;
}

/* Slot 0 is busy if its last request came too late for whoever asked: it may have come since. */
static bool slot_0_ready(ring *q)
{
    completion late;
    while (virtio_busy_slots(v) & 1 && ring_reap(q, &late) == REAPED_ONE)
        ;
    return q->slots && !(virtio_busy_slots(v) & 1);
}

/* Add, publish, kick, wait. Slot 0 is its own. What a notebook added before and has not waited for may come back
 * first: it is reaped, and not reported. */
static uint32_t request(const context *self, const uint64_t *a, uint64_t *r)
{
    (void)self;
    uint32_t refused = queue_ready(a[0]);
    if (refused)
        return refused;
    ring *q = &v->rings[a[0]];
    if (!good_request(a))
        return AGENT_BAD_ARGUMENT;
    if (!slot_0_ready(q))
        return AGENT_RING_FULL;
    completion done = {.slot = REQUEST_SLOTS};
    uint64_t start = rdtsc(), interrupts = device_interrupts, until = deadline_after(a[4]), reaped;
    ring_describe(q, 0, (uint32_t)a[1], (uint32_t)a[3]);
    ring_add(q, 0, a[2]);
    if (ring_publish(q))
        virtio_kick(v, q->index);
    while (done.slot) {
        uint32_t failed = reap_until(q, 1, until, &done, &reaped);
        if (failed)
            return failed;
    }
    r[0] = done.status;
    r[1] = done.bytes;
    r[2] = rdtsc() - start;
    r[3] = device_interrupts - interrupts;
    return AGENT_OK;
}

/* -- load ------------------------------------------------------------------------------------------------------------- */

static uint32_t loop(const context *self, const uint64_t *a, uint64_t *r)
{
    (void)r;
    if (!good_port(a[0], a[1]) || a[3] > MB_SAMPLES_MAX || a[4] > UINT32_MAX)
        return AGENT_BAD_ARGUMENT;
    for (uint64_t batch = 0; batch < a[3]; batch++)
        self->box->samples[batch] = kick_loop((uint16_t)a[0], (uint32_t)a[1], (uint32_t)a[2], a[4]);
    return AGENT_OK;
}

static uint32_t storm(const context *self, const uint64_t *a, uint64_t *r)
{
    if (a[0] >= QUEUE_MAX || a[2] > REQUEST_SLOTS || a[3] > UINT32_MAX || a[4] > BUFFER_STRIDE ||
        (uint32_t)a[5] > VCPUS_MAX)
        return AGENT_BAD_ARGUMENT; /* before they are cut to 32 bits */
    load_plan plan = {
        .queue = (uint32_t)a[0],
        .requests = a[1],
        .depth = (uint32_t)a[2],
        .type = (uint32_t)a[3],
        .bytes = (uint32_t)a[4],
        .vcpus = (uint32_t)a[5],
        .think_ticks = (uint32_t)(a[5] >> STORM_THINK),
        .timeout_ticks = a[6],
        .sectors = a[7],
    };
    load_result result = {0};
    uint32_t failed = load_run(v, &plan, self->vcpu, &result);
    r[0] = result.ticks;
    r[1] = result.completed;
    r[2] = result.errors;
    r[3] = result.kicks;
    r[4] = result.interrupts;
    r[5] = result.kick_ticks;
    r[6] = result.lock_ticks;
    r[7] = result.own_ticks;
    return failed;
}

static step *const steps[CMD_LAST + 1] = {
    [CMD_NEGOTIATE] = negotiate,
    [CMD_SET_STATUS] = set_status,
    [CMD_DRIVER_OK] = driver_ok,
    [CMD_ADD] = add,
    [CMD_PUBLISH] = publish,
    [CMD_KICK] = kick,
    [CMD_WAIT] = wait,
    [CMD_REQUEST] = request,
    [CMD_BUS_MASTER] = bus_master,
    [CMD_PORT_IN] = port_in,
    [CMD_PORT_OUT] = port_out,
    [CMD_PCI_READ] = config_read,
    [CMD_PCI_WRITE] = config_write,
    [CMD_LOAD] = load,
    [CMD_STORE] = store,
    [CMD_KICK_LOOP] = loop,
    [CMD_STORM] = storm,
    [CMD_RESET] = reset,
    [CMD_FAULT] = fault,
    [CMD_ADD_BUFFERS] = add_buffers,
};

static void do_step(const void *whose, uint32_t command)
{
    const context *self = whose;
    mailbox *box = self->box;
    bool known = command <= CMD_LAST && steps[command];
    box->status = known ? steps[command](self, box->args, box->results) : AGENT_UNKNOWN_COMMAND;
}

/* Parking says that the step is done: its answer must be in memory before, and the next arguments are read after. */
static uint32_t park(void)
{
    write_barrier();
    uint32_t command = in32(PORT_PARK);
    read_barrier();
    return command;
}

/* Whoever is at the other end of the serial port tells steps line by line, and reads the answers there. */
static _Noreturn void go_by_serial(const context *self)
{
    static char line[SCRIPT_LINE_MAX];
    if (!serial_open()) {
        say("there is no serial port\n");
        finish(1);
    }
    say_on_serial();
    say("ready\n");
    for (;;) {
        if (serial_line(line, sizeof line))
            script_run(line, self->box, do_step, self);
        else
            say("no step: the line is too long\n");
    }
}

/* No labkit here. A script on the command line will do, or somebody at the serial port; else there is nothing to do. */
static _Noreturn void go_alone(const context *self, uint32_t info)
{
    const char *line = command_line(info), *script = option(line, "steps");
    if (option_is(line, "steps", "serial"))
        go_by_serial(self);
    if (script)
        finish(script_run(script, self->box, do_step, self));
    say("this guest is driven by labkit, and nobody is there\n");
    finish(1);
}

_Noreturn void guest_main(uint32_t vcpu, uint32_t vcpus, uint32_t info)
{
    const context self = {vcpu, vcpus, (mailbox *)(GPA_MAILBOX + (uint64_t)vcpu * MAILBOX_STRIDE)};
    ring_has_barrier = !option_is(command_line(info), "barrier", "none");
    for (;;) {
        uint32_t command = park();
        if (command == PARK_NOBODY)
            go_alone(&self, info);
        if (command != CMD_NONE)
            do_step(&self, command);
    }
}
