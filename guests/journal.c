/* A disk that is written all the time, by a guest that can prove at any moment that no acknowledged write was lost.
 *
 * Command line: depth=1..8 requests in flight, span=1..1024 sectors in use, irq=msix|intx|poll; `idle`: the driver comes
 * up and nothing more is done. Each block says where it belongs and which write it was; the seq that a sector was last
 * acknowledged with stands in a table at GPA_JOURNAL (abi.h), where the host reads it, now or when the guest is dead.
 * Every eighth request reads, and what it brings must be that block to the last bit.
 *
 * It ends when the host sets JOURNAL_STOP: what is in flight comes home, every sector is read once more, and it prints
 * `journal acked= verified= errors=0` and ends with 0. At the first thing that is not as it should be it prints
 * `journal failed=WHAT sector= expected= found=` and ends with 1. WHAT: `lost` an older block, `newer` one this guest
 * has not written, `stranger` one of another sector, `corrupt` no whole block, `status` the device's answer (found),
 * `used` a head that was not in flight. */
#include "options.h"
#include "report.h"
#include "virtio_legacy.h"
#include "x86.h"

#define READ_EVERY 8
#define BODY_WORDS ((JOURNAL_BLOCK_SUM - JOURNAL_BLOCK_BODY) / 8)
#define POISON 0 /* in the buffer of a read: a device that writes nothing is found out */
#define FOR_EVER UINT64_MAX

typedef struct {
    uint64_t sector, seq; /* a write: the block's; a read: what must be there */
    bool writes;
} request;

static request requests[JOURNAL_DEPTH_MAX];
static bool busy[JOURNAL_SPAN_MAX]; /* sectors with a request in flight: one at a time, or nobody knew the order */
static uint64_t depth, span, slots, turns;
static ring *const r = &the_device.rings[0];

static void tell(uint64_t offset, uint64_t value)
{
    store64(GPA_JOURNAL + offset, value);
}

static uint64_t told(uint64_t offset)
{
    return load64(GPA_JOURNAL + offset);
}

static uint64_t entry(uint64_t sector)
{
    return JOURNAL_TABLE + 8 * sector;
}

static _Noreturn void refuse(const char *what)
{
    say("journal failed=");
    say(what);
    say("\n");
    tell(JOURNAL_STATE, JOURNAL_FAILED);
    finish(1);
}

static _Noreturn void fail(const char *what, const request *asked, uint64_t found)
{
    say("journal failed=");
    say(what);
    say_pair("sector", asked->sector);
    say_pair("expected", asked->seq);
    say_pair("found", found);
    say("\n");
    tell(JOURNAL_STATE, JOURNAL_FAILED);
    finish(1);
}

/* -- blocks. One instruction for the body: where guest code is emulated, a loop would be most of the load. */

static void fill(uint64_t gpa, uint64_t word, uint64_t count)
{
    __asm__ volatile("cld; rep stosq" : "+D"(gpa), "+c"(count) : "a"(word) : "memory", "cc");
}

static bool all_are(uint64_t gpa, uint64_t word, uint64_t count)
{
    bool same;
    __asm__ volatile("cld; repe scasq" : "=@ccz"(same), "+D"(gpa), "+c"(count) : "a"(word) : "memory");
    return same;
}

static uint64_t body_of(uint64_t sector, uint64_t seq)
{
    return (seq << JOURNAL_SEQ_SHIFT | sector) * JOURNAL_MIX;
}

static uint64_t sum_of(uint64_t sector, uint64_t seq)
{
    return JOURNAL_BLOCK_MAGIC + sector + seq + BODY_WORDS * body_of(sector, seq);
}

static void write_block(uint64_t at, uint64_t sector, uint64_t seq)
{
    store64(at, JOURNAL_BLOCK_MAGIC);
    store64(at + JOURNAL_BLOCK_SECTOR, sector);
    store64(at + JOURNAL_BLOCK_SEQ, seq);
    fill(at + JOURNAL_BLOCK_BODY, body_of(sector, seq), BODY_WORDS);
    store64(at + JOURNAL_BLOCK_SUM, sum_of(sector, seq));
}

static bool is_block(uint64_t at, uint64_t sector, uint64_t seq)
{
    return load64(at) == JOURNAL_BLOCK_MAGIC && load64(at + JOURNAL_BLOCK_SECTOR) == sector &&
           load64(at + JOURNAL_BLOCK_SEQ) == seq &&
           all_are(at + JOURNAL_BLOCK_BODY, body_of(sector, seq), BODY_WORDS) &&
           load64(at + JOURNAL_BLOCK_SUM) == sum_of(sector, seq);
}

static _Noreturn void fail_at(uint64_t at, const request *asked)
{
    uint64_t sector = load64(at + JOURNAL_BLOCK_SECTOR), seq = load64(at + JOURNAL_BLOCK_SEQ);
    if (!is_block(at, sector, seq))
        fail("corrupt", asked, seq);
    if (sector != asked->sector)
        fail("stranger", asked, seq);
    fail(seq < asked->seq ? "lost" : "newer", asked, seq);
}

/* -- requests */

static uint64_t numbers = 1;

static uint64_t next_number(void)
{
    numbers =
        numbers * UINT64_C(6364136223846793005) + 1442695040888963407; /* Knuth's; the upper bits are the good ones */
    return numbers >> 33;
}

/* A sector of the span that nobody is at; `span` if there is none. */
static uint64_t choose(void)
{
    uint64_t first = next_number() % span, sector = first;
    while (busy[sector]) {
        sector = sector + 1 < span ? sector + 1 : 0;
        if (sector == first)
            return span;
    }
    return sector;
}

/* JOURNAL_SUBMITTED is moved before the device can see the block. */
static void add(uint32_t slot, uint64_t sector, bool writes)
{
    request *q = &requests[slot];
    uint64_t buffer = slot_buffer(slot);
    *q = (request){sector, writes ? told(JOURNAL_SUBMITTED) + 1 : told(entry(sector)), writes};
    if (writes) {
        write_block(buffer, sector, q->seq);
        tell(JOURNAL_SUBMITTED, q->seq);
    } else {
        fill(buffer, POISON, SECTOR_BYTES / 8);
    }
    busy[sector] = true;
    ring_describe(r, slot, writes ? BLK_T_OUT : BLK_T_IN, SECTOR_BYTES);
    ring_add(r, slot, sector);
}

static void publish(void)
{
    if (r->added != r->avail->idx && ring_publish(r))
        virtio_kick(&the_device, r->index);
}

/* The table first: a write that is counted stands in it. */
static void complete(const completion *done)
{
    const request *q = &requests[done->slot];
    if (done->status != BLK_S_OK)
        fail("status", q, done->status);
    if (!q->writes && !is_block(slot_buffer(done->slot), q->sector, q->seq))
        fail_at(slot_buffer(done->slot), q);
    if (q->writes)
        tell(entry(q->sector), q->seq);
    uint64_t counter = q->writes ? JOURNAL_ACKED : JOURNAL_VERIFIED;
    tell(counter, told(counter) + 1);
    busy[q->sector] = false;
}

/* Waits for ever: a machine may be held at a gate for as long as one likes. What is lost is seen as counters that stand. */
static void reap(void)
{
    completion done;
    enum reaped got;
    virtio_wait(&the_device, r, FOR_EVER);
    while ((got = ring_reap(r, &done)) == REAPED_ONE)
        complete(&done);
    if (got == REAPED_BAD)
        refuse("used");
}

static void work(void)
{
    uint64_t idle, sector;
    while (!told(JOURNAL_STOP)) {
        while ((idle = slots & ~r->in_flight) && (sector = choose()) < span)
            add(lowest_bit(idle), sector, ++turns % READ_EVERY || !told(entry(sector)));
        publish();
        reap();
    }
    while (r->in_flight)
        reap();
}

static void read_all(void)
{
    for (uint64_t sector = 0; sector < span; sector++) {
        if (!told(entry(sector)))
            continue;
        while (!(slots & ~r->in_flight))
            reap();
        add(lowest_bit(slots & ~r->in_flight), sector, false);
        publish();
    }
    while (r->in_flight)
        reap();
}

static void report_up(uint64_t ticks)
{
    say("journal");
    say_pair("driver_ok_ticks", ticks);
    say_pair("irq", the_device.irq);
    say_pair("depth", depth);
    say_pair("span", span);
    say("\n");
}

static void report_end(void)
{
    say("journal");
    say_pair("acked", told(JOURNAL_ACKED));
    say_pair("verified", told(JOURNAL_VERIFIED));
    say_pair("errors", 0); /* at the first one it had ended */
    say("\n");
}

/* Firmware may have used this memory, and after a reset an earlier run has. */
static void prepare(const char *line)
{
    fill(GPA_JOURNAL, 0, JOURNAL_BYTES / 8);
    depth = option_number(line, "depth", 4);
    span = option_number(line, "span", 64);
    if (!depth || depth > JOURNAL_DEPTH_MAX)
        refuse("depth");
    if (!span || span > JOURNAL_SPAN_MAX)
        refuse("span");
    slots = (UINT64_C(1) << depth) - 1;
    tell(JOURNAL_SPAN, span);
}

static void bring_up(const char *line, uint32_t vcpus)
{
    uint64_t start = rdtsc();
    uint32_t irq = option_is(line, "irq", "poll") ? IRQ_POLL : option_is(line, "irq", "intx") ? IRQ_INTX : IRQ_MSIX;
    if (virtio_negotiate(&the_device, irq, UINT32_MAX, 0, vcpus) || the_device.device_id != VIRTIO_DEVICE_BLK)
        refuse("negotiate");
    virtio_set_status(&the_device, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_DRIVER_OK);
    if (virtio_capacity(&the_device) < span)
        refuse("capacity");
    tell(JOURNAL_STATE, JOURNAL_UP);
    tell(0, JOURNAL_MAGIC);
    report_up(rdtsc() - start);
}

_Noreturn void guest_main(uint32_t vcpu, uint32_t vcpus, uint32_t info)
{
    const char *line = command_line(info);
    if (vcpu)
        for (;;)
            __asm__ volatile("cli; hlt");
    prepare(line);
    bring_up(line, vcpus);
    if (option_given(line, "idle"))
        while (!told(JOURNAL_STOP))
            virtio_relax(&the_device);
    work();
    read_all();
    tell(JOURNAL_STATE, JOURNAL_STOPPED);
    report_end();
    finish(0);
}
