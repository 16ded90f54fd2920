/* The raw floors of the bench: bare loops on the same machine, without checks, events, locks or rules.
 *
 * lk_bare_step lends a stopped vCPU to the calling thread and lets the same guest do the same step, with the least
 * host around it that can work: ignore the kick (a null device), or walk the ring unchecked and pread. */
#include "core.h"
#include <fcntl.h>
#include <linux/kvm.h>
#include <sched.h>
#include <sys/epoll.h>
#include <time.h>

typedef struct {
    uint32_t id, len;
} used_element;

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Three descriptors, header - data - status, trusted: what any server of a block read must do, and no more. */
static void bare_serve(lk_bare *bare)
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
    if (bare->last_avail != before && !(load_relaxed(avail) & AVAIL_NO_INTERRUPT) && device->msix_enabled) {
        const uint64_t one = 1;
        (void)!write(device->vectors[vq->vector].fd, &one, sizeof one);
    }
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
        if (bare->device)
            bare_serve(bare);
        if (count >= UINT64_C(1) << 32) /* the stop sign: no guest kicks that often */
            break;
    }
    close(epoll_fd);
    return NULL;
}

/* The guest takes `command` where it parks and runs until it parks again. The I/O it parks with stays half done, as it
 * was found: whoever answers it next, the vCPU's own thread or a bare loop, completes it. */
static int bare_run(lk_bare *bare, uint32_t command)
{
    struct kvm_run *run = bare->vcpu->run_page;
    int posted = 0;
    run->immediate_exit = 0;
    for (;;) {
        if (ioctl(bare->vcpu->fd, KVM_RUN, 0)) {
            if (errno == EINTR || errno == EAGAIN)
                continue;
            return -errno;
        }
        if (run->exit_reason != KVM_EXIT_IO)
            return -EIO;
        if (run->io.port == bare->notify_port && bare->device)
            bare_serve(bare);
        if (run->io.port != PORT_PARK || run->io.direction == KVM_EXIT_IO_OUT)
            continue;
        if (posted++)
            break;
        memcpy((uint8_t *)run + run->io.data_offset, &command, sizeof command);
    }
    run->immediate_exit = 1;
    return 0;
}

/* 0 or -errno; -EIO if the guest left in an unexpected way. */
int lk_bare_step(lk_bare *bare, uint32_t command)
{
    pthread_t reader;
    const uint64_t stop = UINT64_C(1) << 32;
    if (bare->eventfd >= 0 && pthread_create(&reader, NULL, bare_reader, bare))
        return -EAGAIN;
    int result = bare_run(bare, command);
    if (bare->eventfd >= 0) {
        (void)!write(bare->eventfd, &stop, sizeof stop);
        pthread_join(reader, NULL);
    }
    return result;
}

/* VM, split irqchip, memory, one vCPU in real mode, up to its first exit (hlt is at 0xfff0: all RAM is hlt). */
uint64_t lk_bare_boot_ns(void)
{
    const size_t bytes = 1 << 20;
    uint64_t start = now_ns();
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC), vm = ioctl(kvm, KVM_CREATE_VM, 0);
    struct kvm_enable_cap split = {.cap = KVM_CAP_SPLIT_IRQCHIP, .args = {24}};
    ioctl(vm, KVM_SET_TSS_ADDR, 0xfffbd000);
    ioctl(vm, KVM_ENABLE_CAP, &split);
    uint8_t *ram = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region region = {.memory_size = bytes, .userspace_addr = (uintptr_t)ram};
    ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region);
    int vcpu = ioctl(vm, KVM_CREATE_VCPU, 0), page = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    struct kvm_run *run = mmap(NULL, (size_t)page, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    struct kvm_sregs sregs;
    struct kvm_regs regs = {.rip = 0x1000, .rflags = 2};
    ram[0x1000] = 0xe6; /* out 0x80, al */
    ram[0x1001] = 0x80;
    ioctl(vcpu, KVM_GET_SREGS, &sregs);
    sregs.cs.base = sregs.cs.selector = 0;
    ioctl(vcpu, KVM_SET_SREGS, &sregs);
    ioctl(vcpu, KVM_SET_REGS, &regs);
    int failed = ioctl(vcpu, KVM_RUN, 0) || run->exit_reason != KVM_EXIT_IO;
    uint64_t spent = now_ns() - start;
    munmap(run, (size_t)page);
    munmap(ram, bytes);
    close(vcpu);
    close(vm);
    close(kvm);
    return failed ? 0 : spent;
}

/* Registers set back and the guest run to where it parks, the least a reset can be. */
uint64_t lk_bare_reset_ns(lk_vcpu *vcpu, const void *regs, const void *sregs, unsigned times)
{
    struct kvm_run *run = vcpu->run_page;
    uint64_t start = now_ns();
    for (unsigned i = 0; i < times; i++) {
        run->immediate_exit = 1; /* completes the I/O it parked with */
        ioctl(vcpu->fd, KVM_RUN, 0);
        run->immediate_exit = 0;
        ioctl(vcpu->fd, KVM_SET_SREGS, sregs);
        ioctl(vcpu->fd, KVM_SET_REGS, regs);
        if (ioctl(vcpu->fd, KVM_RUN, 0) || run->exit_reason != KVM_EXIT_IO || run->io.port != PORT_PARK)
            return 0;
    }
    uint64_t spent = now_ns() - start;
    run->immediate_exit = 1;
    return spent / times;
}
