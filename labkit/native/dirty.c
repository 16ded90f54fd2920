/* Which pages of guest memory were written since the last look? A bit a page, set by the core for what it writes itself.
 *
 * What the guest writes is told by its CPU: KVM has a log. Another CPU has none that is exact: its memory is compared with
 * a copy (the shadow), which follows at each look.
 *
 * A writer writes first and marks then; a look clears first and reads then. So what a look misses, the next one finds. */
#include "dirty.h"

#define BITS 64u

struct lk_dirty {
    uint64_t words; /* of the bitmap */
    uint8_t *shadow; /* NULL: there is none */
    int memfd; /* with a shadow */
    uint64_t bitmap[];
};

static uint64_t pages_of(const lk_machine *machine)
{
    return machine->memory.bytes / PAGE_BYTES;
}

void lk_dirtied(lk_machine *machine, uint64_t gpa, uint64_t bytes)
{
    if (!load_acquire(&machine->tracking) || !bytes)
        return;
    uint64_t page = gpa / PAGE_BYTES, end = (gpa + bytes - 1) / PAGE_BYTES + 1;
    full_barrier(); /* who finds a bit set leaves it: what it wrote must be visible to whoever clears that bit later */
    while (page < end) {
        uint64_t shift = page % BITS, count = end - page < BITS - shift ? end - page : BITS - shift;
        uint64_t mask = (count == BITS ? UINT64_MAX : (UINT64_C(1) << count) - 1) << shift;
        uint64_t *word = &machine->dirty->bitmap[page / BITS];
        if ((load_relaxed(word) & mask) != mask)
            __atomic_fetch_or(word, mask, __ATOMIC_RELEASE);
        page += count;
    }
}

/* -- the shadow -------------------------------------------------------------------------------------------------------- */

static void drop_shadow(lk_machine *machine)
{
    lk_dirty *dirty = machine->dirty;
    if (dirty->shadow)
        lk_unmap(dirty->shadow, machine->memory.bytes);
    dirty->shadow = NULL;
}

/* The next stretch of guest memory that was ever touched, from `at` on; what lies between is zero, in the shadow too. */
static int next_touched(const lk_machine *machine, off_t *at, off_t *end)
{
    off_t begin = lseek(machine->dirty->memfd, *at, SEEK_DATA);
    if (begin < 0)
        return 0;
    *at = begin;
    *end = lseek(machine->dirty->memfd, begin, SEEK_HOLE);
    return *end > begin;
}

static void compare_page(lk_machine *machine, uint64_t page)
{
    lk_dirty *dirty = machine->dirty;
    uint8_t *now = machine->memory.host + page * PAGE_BYTES, *before = dirty->shadow + page * PAGE_BYTES;
    if (!memcmp(now, before, PAGE_BYTES))
        return;
    memcpy(before, now, PAGE_BYTES);
    __atomic_fetch_or(&dirty->bitmap[page / BITS], UINT64_C(1) << page % BITS, __ATOMIC_RELAXED);
}

static void compare(lk_machine *machine)
{
    for (off_t at = 0, end; next_touched(machine, &at, &end); at = end)
        for (uint64_t page = (uint64_t)at / PAGE_BYTES; page < (uint64_t)end / PAGE_BYTES; page++)
            compare_page(machine, page);
}

/* From now on a look compares. `memfd` is the machine's memory, -1: no more comparing. 0 or -errno. */
int lk_dirty_compare(lk_machine *machine, int memfd)
{
    lk_dirty *dirty = machine->dirty;
    if (!dirty)
        return -EINVAL;
    drop_shadow(machine);
    if (memfd < 0)
        return 0;
    void *shadow =
        mmap(NULL, machine->memory.bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (shadow == MAP_FAILED)
        return -errno;
    dirty->shadow = shadow;
    dirty->memfd = memfd;
    for (off_t at = 0, end; next_touched(machine, &at, &end); at = end)
        memcpy(dirty->shadow + at, machine->memory.host + at, (size_t)(end - at));
    return 0;
}

/* -- looking ----------------------------------------------------------------------------------------------------------- */

/* Begin with nothing marked, or end. 0 or -errno. Whoever marks may be in the middle of it: the bitmap stays. */
int lk_dirty_track(lk_machine *machine, int on)
{
    uint64_t words = (pages_of(machine) + BITS - 1) / BITS;
    if (!machine->dirty && on) {
        machine->dirty = calloc(1, sizeof *machine->dirty + words * sizeof *machine->dirty->bitmap);
        if (!machine->dirty)
            return -ENOMEM;
        machine->dirty->words = words;
    }
    for (uint64_t i = 0; machine->dirty && i < words; i++)
        __atomic_store_n(&machine->dirty->bitmap[i], 0, __ATOMIC_RELAXED);
    store_release(&machine->tracking, on != 0);
    full_barrier();
    return 0;
}

void dirty_free(lk_machine *machine)
{
    if (machine->dirty)
        drop_shadow(machine);
    free(machine->dirty);
}

/* The marked pages, and those of the bitmap `more` (NULL: none), in order; none is marked any more. `pages` has room for
 * all of memory. Returns how many. */
uint32_t lk_dirty_take(lk_machine *machine, const uint64_t *more, uint32_t *pages)
{
    lk_dirty *dirty = machine->dirty;
    uint32_t count = 0;
    if (!dirty)
        return 0;
    if (dirty->shadow)
        compare(machine);
    for (uint64_t i = 0; i < dirty->words; i++) {
        uint64_t word = load_relaxed(&dirty->bitmap[i]);
        if (word)
            word = __atomic_exchange_n(&dirty->bitmap[i], 0, __ATOMIC_SEQ_CST);
        for (word |= more ? more[i] : 0; word; word &= word - 1)
            pages[count++] = (uint32_t)(i * BITS) + (uint32_t)__builtin_ctzll(word);
    }
    return count;
}

static int inside(const lk_machine *machine, const uint32_t *pages, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        if (pages[i] >= pages_of(machine))
            return 0;
    return 1;
}

/* Their contents, one after the other. Where a look compares, these are the contents that it compared: a page that is
 * written and written back before the next look would be told by nobody. 0 or -EINVAL. */
int lk_dirty_copy(const lk_machine *machine, const uint32_t *pages, uint32_t count, void *out)
{
    const uint8_t *shadow = machine->dirty ? machine->dirty->shadow : NULL;
    const uint8_t *from = shadow ? shadow : machine->memory.host;
    if (!inside(machine, pages, count))
        return -EINVAL;
    for (uint32_t i = 0; i < count; i++)
        memcpy((uint8_t *)out + (uint64_t)i * PAGE_BYTES, from + (uint64_t)pages[i] * PAGE_BYTES, PAGE_BYTES);
    return 0;
}

static void put(lk_machine *machine, uint64_t at, const uint8_t *page)
{
    uint8_t *shadow = machine->dirty ? machine->dirty->shadow : NULL;
    memcpy(machine->memory.host + at, page, PAGE_BYTES);
    if (shadow)
        memcpy(shadow + at, page, PAGE_BYTES);
}

/* Those pages as they are in `image`, a copy of all of memory. They are not marked. 0 or -EINVAL. */
int lk_dirty_put_back(lk_machine *machine, const uint32_t *pages, uint32_t count, const void *image)
{
    if (!inside(machine, pages, count))
        return -EINVAL;
    for (uint32_t i = 0; i < count; i++)
        put(machine, (uint64_t)pages[i] * PAGE_BYTES, (const uint8_t *)image + (uint64_t)pages[i] * PAGE_BYTES);
    return 0;
}

/* The same from what lk_dirty_copy has made: only those pages, one after the other. */
int lk_dirty_put(lk_machine *machine, const uint32_t *pages, uint32_t count, const void *contents)
{
    if (!inside(machine, pages, count))
        return -EINVAL;
    for (uint32_t i = 0; i < count; i++)
        put(machine, (uint64_t)pages[i] * PAGE_BYTES, (const uint8_t *)contents + (uint64_t)i * PAGE_BYTES);
    return 0;
}
