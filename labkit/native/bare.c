/* Who serves the kicks of a bare loop? An unchecked walk of the ring, by the loop itself or by a thread of its own. */
#include "bare.h"
#include <sched.h>
#include <sys/epoll.h>

#define STOP_SIGN (UINT64_C(1) << 32) /* no guest kicks that often */

typedef struct {
    uint32_t id, len;
} used_element;

/* Three descriptors, header - data - status, trusted: what any server of a block read must do, and no more. */
int bare_serve(lk_bare *bare)
{
    const lk_device *device = bare->device;
    const lk_vq *vq = &device->vq[0];
    uint8_t *ram = device->machine->memory.host;
    const uint64_t *desc = (const uint64_t *)(ram + vq->desc);
    const uint16_t *avail = (const uint16_t *)(ram + vq->avail);
    uint16_t *used = (uint16_t *)(ram + vq->used);
    uint16_t before = bare->last_avail;
    while (bare->last_avail != load_acquire(avail + 1)) {
        uint16_t head = avail[2 + bare->last_avail++ % vq->num];
        const uint64_t *data = desc + 2 * (uint16_t)(desc[2 * head + 1] >> 48);
        const uint64_t *status = desc + 2 * (uint16_t)(data[1] >> 48);
        uint64_t sector = *(const uint64_t *)(ram + desc[2 * head] + 8);
        ssize_t got = pread(device->blk.fd, ram + data[0], (uint32_t)data[1], (off_t)(sector * SECTOR_BYTES));
        ram[status[0]] = got < 0;
        ((used_element *)(used + 2))[bare->used_idx % vq->num] = (used_element){head, (uint32_t)data[1] + 1};
        store_release(used + 1, ++bare->used_idx);
        bare->served++;
    }
    full_barrier();
    return bare->last_avail != before && !(load_relaxed(avail) & AVAIL_NO_INTERRUPT) && device->msix_enabled;
}

static void *bare_reader(void *argument)
{
    lk_bare *bare = argument;
    uint64_t count;
    struct epoll_event event = {.events = EPOLLIN};
    if (bare->reader_cpu >= 0) {
        cpu_set_t only;
        CPU_ZERO(&only);
        CPU_SET(bare->reader_cpu, &only);
        sched_setaffinity(0, sizeof only, &only);
    }
    int epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    epoll_ctl(epoll_fd, EPOLL_CTL_ADD, bare->eventfd, &event);
    for (;;) {
        epoll_wait(epoll_fd, &event, 1, -1);
        if (read(bare->eventfd, &count, sizeof count) != sizeof count)
            continue;
        if (bare->device && bare_serve(bare))
            bare_signal(bare->interrupt_fd);
        if (count >= STOP_SIGN)
            break;
    }
    close(epoll_fd);
    return NULL;
}

/* The guest does one step, and where kicks signal an eventfd a thread drains it meanwhile. */
int bare_step(lk_bare *bare, uint32_t command, int (*run)(lk_bare *bare, uint32_t command))
{
    pthread_t reader;
    const uint64_t stop = STOP_SIGN;
    if (bare->eventfd >= 0 && pthread_create(&reader, NULL, bare_reader, bare))
        return -EAGAIN;
    int result = run(bare, command);
    if (bare->eventfd >= 0) {
        (void)!write(bare->eventfd, &stop, sizeof stop);
        pthread_join(reader, NULL);
    }
    return result;
}
