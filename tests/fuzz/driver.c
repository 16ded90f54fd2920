/* What does a driver put into a ring? Good requests of the device's kind, some of them with one thing wrong. */
#include "fuzz.h"

#define ALL_ENTRIES (TABLES * TABLE_ENTRIES)
#define ODD_SHARE 12 /* one chain in so many has something wrong with it */

static const uint64_t odd_addresses[] = {
    RAM_BYTES, RAM_BYTES - 1, RAM_BYTES - 15, RAM_BYTES + 1, UINT64_MAX, UINT64_MAX - 15, UINT64_C(1) << 63, 0,
};
static const uint32_t odd_lengths[] = {
    0, 1, 15, 17, RAM_BYTES, RAM_BYTES + 1, DESC_BYTES * (QUEUE_SIZE_MAX + 1), 0x7fffffff, 0x80000000, UINT32_MAX,
};

#define ONE_OF(list) ((list)[below(sizeof(list) / sizeof *(list))])

static uint64_t desc_gpa(unsigned queue)
{
    return (uint64_t)w.device->vq[queue].pfn << QUEUE_PFN_SHIFT;
}

static uint64_t avail_gpa(unsigned queue)
{
    return desc_gpa(queue) + (uint64_t)DESC_BYTES * w.device->vq[queue].num;
}

/* One thing wrong with one descriptor of a table of `size`. */
static void spoil(vring_desc *desc, uint32_t size)
{
    switch (below(9)) {
    case 0:
        desc->gpa = ONE_OF(odd_addresses);
        break;
    case 1:
        desc->gpa = RAM_BYTES - desc->bytes + (uint64_t)below(3) - 1; /* ends at the end of RAM, give or take one */
        break;
    case 2:
        desc->gpa = below(RAM_BYTES); /* anywhere, over a ring too */
        break;
    case 3:
        desc->bytes = ONE_OF(odd_lengths);
        break;
    case 4:
        desc->bytes += below(3) - 1;
        break;
    case 5:
        desc->flags ^= (uint16_t)(1u << below(one_in(4) ? 16 : 3));
        break;
    case 6:
        desc->next = (uint16_t)roll();
        desc->flags |= DESC_NEXT;
        break;
    case 7:
        desc->next = (uint16_t)(size - below(2)); /* the first that is not there, the last that is */
        desc->flags |= DESC_NEXT;
        break;
    default:
        desc->next = (uint16_t)below(4); /* a loop, or another chain's */
        desc->flags |= DESC_NEXT;
    }
}

static bool power_of_two(uint32_t n)
{
    return (n & (n - 1)) == 0;
}

/* Links `parts` and stores them in a table of `size` from entry `first` on, in jumps. Returns the head. */
static uint16_t lay_out(vring_desc *parts, unsigned count, uint64_t table, uint32_t size, uint32_t first)
{
    uint32_t stride = power_of_two(size) ? 2 * below(size) + 1 : 1; /* so that no entry is met twice */
    for (unsigned i = 0; i < count; i++)
        if (i + 1 < count) {
            parts[i].flags |= DESC_NEXT;
            parts[i].next = (uint16_t)((first + (i + 1) * stride) % size);
        }
    if (one_in(ODD_SHARE))
        spoil(&parts[below(count)], size);
    for (unsigned i = 0; i < count; i++)
        store(table + (uint64_t)DESC_BYTES * ((first + i * stride) % size), &parts[i], sizeof *parts);
    return (uint16_t)(first % size);
}

/* The parts as an indirect table, and one descriptor that leads to it. */
static vring_desc indirect(vring_desc *parts, unsigned count)
{
    uint64_t table = TABLES_GPA + (uint64_t)below(TABLES) * TABLE_ENTRIES * DESC_BYTES;
    lay_out(parts, count, table, count, 0);
    return (vring_desc){.gpa = table, .bytes = count * DESC_BYTES, .flags = DESC_INDIRECT};
}

/* `entries` of a table linked one to the next, one byte each, from `first` on; the last is `last`, or ends the chain. */
static void fill(uint64_t table, uint32_t entries, uint32_t readable, const vring_desc *last)
{
    for (uint32_t i = 0; i < entries; i++) {
        bool ends = i + 1 == entries;
        vring_desc part = {HEADERS_GPA + i % HEADER_STRIDE, 1, 0, (uint16_t)(i + 1)};
        if (i >= readable)
            part = (vring_desc){BUFFERS_GPA + below(BUFFERS_BYTES), 1, DESC_WRITE, (uint16_t)(i + 1)};
        part.flags |= ends ? 0 : DESC_NEXT;
        store(table + (uint64_t)DESC_BYTES * i, ends && last ? last : &part, sizeof part);
    }
}

/* A chain as long as a ring, or a little longer than any may be, with an indirect table at its end. */
static void add_long(unsigned queue)
{
    uint32_t num = w.device->vq[queue].num, readable = below(2) ? below(num) : num, entries = 1 + below(ALL_ENTRIES);
    if (one_in(2))
        entries = 1 + below(3);
    vring_desc table = {TABLES_GPA, entries * DESC_BYTES, DESC_INDIRECT, 0};
    fill(TABLES_GPA, entries, readable > num - 1 ? readable - (num - 1) : 0, NULL);
    fill(desc_gpa(queue), num, readable, one_in(4) ? NULL : &table);
}

static void set_idx(unsigned queue, uint16_t idx)
{
    w.queues[queue].idx = idx;
    store(avail_gpa(queue) + 2, &idx, sizeof idx);
}

static void publish(unsigned queue, uint16_t head)
{
    driver_queue *driver = &w.queues[queue];
    uint16_t num = w.device->vq[queue].num;
    if (one_in(40))
        head = one_in(2) ? num : (uint16_t)roll();
    store(avail_gpa(queue) + 4 + 2u * (driver->idx % num), &head, sizeof head);
    set_idx(queue, (uint16_t)(driver->idx + 1));
    if (one_in(100)) /* a jump: by more than the ring holds, by exactly that, back, anywhere */
        set_idx(queue, (uint16_t)(driver->idx + (one_in(2) ? num + below(3) - 1 : (uint16_t)roll())));
}

/* One request: laid out, linked, published. */
void driver_add(unsigned queue)
{
    driver_queue *driver = &w.queues[queue];
    const lk_vq *vq = &w.device->vq[queue];
    vring_desc parts[PARTS_MAX];
    if (!vq->num || !vq->pfn)
        return;
    unsigned count = w.kind->request(queue, parts);
    bool offered = w.device->guest_features >> FEATURE_INDIRECT_DESC & 1;
    if (count > vq->num || one_in(offered ? 2 : 50)) {
        parts[0] = indirect(parts, count);
        count = 1;
        if (one_in(50)) /* a table in a table */
            parts[0] = indirect(parts, count);
    }
    if (driver->waiting + count > vq->num && !one_in(30)) /* no room; some drivers do not care */
        return;
    driver->waiting += count;
    uint16_t head = lay_out(parts, count, desc_gpa(queue), vq->num, driver->free);
    if (one_in(vq->num < QUEUE_SIZE_MAX / 2 ? 300 : 30)) {
        add_long(queue);
        head = 0;
    }
    driver->free = (uint16_t)((driver->free + count) % vq->num);
    publish(queue, head);
    uint16_t flags = one_in(4) ? AVAIL_NO_INTERRUPT : 0, used_event = (uint16_t)(driver->idx + below(4) - 2);
    store(avail_gpa(queue), &flags, sizeof flags);
    store(avail_gpa(queue) + 4 + 2u * vq->num, &used_event, sizeof used_event);
}

/* The queue was run: what the device has taken is free again, all at once. A device that looks at no chain leaves them all
 * to the next. */
void driver_has_room(unsigned queue)
{
    if (!w.kind->serve || w.device->broken || w.device->vq[queue].last_avail == w.queues[queue].idx)
        w.queues[queue].waiting = 0;
}

/* An empty ring at `pfn`, as far as there is RAM. Half of them are about to wrap: indices near 65535, as a machine that
 * has run for long has them; and what it last decided about an interrupt may be almost half way back. */
void driver_new_ring(unsigned queue, uint32_t pfn)
{
    static const uint8_t zeroes[8 * PAGE_BYTES];
    lk_vq *vq = &w.device->vq[queue];
    lk_queue_set_pfn(w.device, queue, pfn);
    if (!pfn || !vq->num)
        return;
    uint64_t used = (avail_gpa(queue) + 6 + 2u * vq->num + RING_ALIGN - 1) / RING_ALIGN * RING_ALIGN;
    uint64_t end = used + 6 + (uint64_t)USED_ELEMENT_BYTES * vq->num;
    store(desc_gpa(queue), zeroes, end - desc_gpa(queue));
    uint16_t start = one_in(2) ? (uint16_t)(0x10000 - below(8)) : 0;
    vq->last_avail = vq->used_idx = start;
    vq->decided = one_in(2);
    vq->decided_at = (uint16_t)(start - (one_in(2) ? INT16_MAX - below(4) : 0));
    store(used + 2, &start, sizeof start);
    set_idx(queue, start);
    w.queues[queue].free = (uint16_t)below(vq->num);
    w.queues[queue].waiting = 0;
}

/* Some bytes anywhere. */
void driver_noise(void)
{
    uint64_t bytes[8];
    for (unsigned i = 0; i < 8; i++)
        bytes[i] = roll();
    store(below(RAM_BYTES), bytes, 1 + below(sizeof bytes));
}
