/* What all parts of one machine share: guest memory behind one checked door, the big lock, the feed, the console. */
#include "dirty.h"
#include "gates.h"

/* Lock order: the big lock first, then a vCPU's own (vcpu.c). Python's GIL is never held while waiting for either, so it
 * may be taken under the big lock (pydevice.c). */
struct lk_lock {
    pthread_mutex_t mutex;
    pthread_t holder;
    int held;
};

struct lk_console {
    uint32_t bytes;
    char text[CONSOLE_MAX];
};

lk_machine *lk_machine_new(int memfd, uint64_t bytes, uint32_t feed_capacity)
{
    lk_machine *machine = calloc(1, sizeof *machine);
    if (!machine)
        return NULL;
    machine->memory.host = lk_map_shared(memfd, bytes);
    machine->memory.bytes = bytes;
    machine->feed = lk_feed_new(feed_capacity);
    machine->lock = calloc(1, sizeof *machine->lock);
    machine->console = mmap(NULL, sizeof *machine->console, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    machine->gates = gates_new(machine);
    if (!machine->memory.host || !machine->feed || !machine->lock || !machine->gates ||
        machine->console == MAP_FAILED) {
        lk_machine_free(machine);
        return NULL;
    }
    pthread_mutex_init(&machine->lock->mutex, NULL);
    return machine;
}

void lk_machine_free(lk_machine *machine)
{
    if (!machine)
        return;
    if (machine->lock)
        pthread_mutex_destroy(&machine->lock->mutex);
    free(machine->lock);
    if (machine->console && machine->console != MAP_FAILED)
        munmap(machine->console, sizeof *machine->console);
    lk_feed_free(machine->feed);
    gates_free(machine->gates);
    dirty_free(machine);
    if (machine->memory.host)
        lk_unmap(machine->memory.host, machine->memory.bytes);
    free(machine);
}

/* The one checked door: host address of guest-physical [gpa, gpa + bytes), or NULL if any byte lies outside RAM. */
void *lk_memory_at(const lk_memory *memory, uint64_t gpa, uint64_t bytes)
{
    if (gpa > memory->bytes || bytes > memory->bytes - gpa)
        return NULL;
    return memory->host + gpa;
}

/* 0, or -EFAULT if any byte would lie outside: then none is written. */
int lk_memory_write(lk_machine *machine, uint64_t gpa, const void *data, uint64_t bytes)
{
    void *host = lk_memory_at(&machine->memory, gpa, bytes);
    if (!host)
        return -EFAULT;
    memcpy(host, data, bytes);
    dirtied(machine, host, bytes);
    return 0;
}

/* All of memory is zero again, and takes no room. Nothing is marked. 0 or -errno. */
int lk_memory_clear(lk_machine *machine)
{
    return madvise(machine->memory.host, machine->memory.bytes, MADV_REMOVE) < 0 ? -errno : 0;
}

void lk_lock_take(lk_machine *machine)
{
    if (__builtin_expect(load_relaxed(&machine->guarded), 0))
        gates_want(machine->gates, WANTS_BIG_LOCK, &machine->lock->held, 0);
    pthread_mutex_lock(&machine->lock->mutex);
    machine->lock->holder = pthread_self();
    store_relaxed(&machine->lock->held, 1);
    gates_locked(HAS_BIG_LOCK, 1);
}

void lk_lock_release(lk_machine *machine)
{
    gates_locked(HAS_BIG_LOCK, 0);
    store_relaxed(&machine->lock->held, 0);
    pthread_mutex_unlock(&machine->lock->mutex);
}

int lk_lock_is_mine(const lk_machine *machine)
{
    return load_relaxed(&machine->lock->held) && pthread_equal(machine->lock->holder, pthread_self());
}

/* Keeps the first CONSOLE_MAX bytes: a guest that prints for ever must not eat the host. Under the big lock. */
void lk_console_put(lk_machine *machine, const uint8_t *text, uint32_t bytes)
{
    lk_console *console = machine->console;
    uint32_t room = CONSOLE_MAX - console->bytes, taken = bytes < room ? bytes : room;
    memcpy(console->text + console->bytes, text, taken);
    store_release(&console->bytes, console->bytes + taken);
}

uint32_t lk_console_read(lk_machine *machine, uint32_t from, char *out, uint32_t most)
{
    uint32_t bytes = load_acquire(&machine->console->bytes);
    uint32_t count = from < bytes ? bytes - from : 0;
    if (count > most)
        count = most;
    memcpy(out, machine->console->text + from, count);
    return count;
}

void lk_console_clear(lk_machine *machine)
{
    store_release(&machine->console->bytes, 0);
}
