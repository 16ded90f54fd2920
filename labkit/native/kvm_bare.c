/* The raw floors under KVM: a bare loop around KVM_RUN.
 *
 * lk_kvm_bare_step lends a stopped vCPU to the calling thread and lets the same guest do the same step, with the least
 * host around it that can work: ignore the kick (a null device), or walk the ring unchecked and pread. */
#include "bare.h"
#include <fcntl.h>
#include <linux/kvm.h>

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
        if (run->io.port == bare->notify_port && bare->device && bare_serve(bare))
            bare_signal(bare->interrupt_fd);
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
int lk_kvm_bare_step(lk_bare *bare, uint32_t command)
{
    return bare_step(bare, command, bare_run);
}

/* VM, split irqchip, memory, one vCPU in real mode, up to its first exit (hlt is at 0xfff0: all RAM is hlt). */
uint64_t lk_kvm_bare_boot_ns(void)
{
    const size_t bytes = 1 << 20;
    uint64_t start = bare_now_ns();
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
    uint64_t spent = bare_now_ns() - start;
    munmap(run, (size_t)page);
    munmap(ram, bytes);
    close(vcpu);
    close(vm);
    close(kvm);
    return failed ? 0 : spent;
}

/* Registers set back and the guest run to where it parks, the least a reset can be. */
uint64_t lk_kvm_bare_reset_ns(lk_vcpu *vcpu, const void *regs, const void *sregs, unsigned times)
{
    struct kvm_run *run = vcpu->run_page;
    uint64_t start = bare_now_ns();
    for (unsigned i = 0; i < times; i++) {
        run->immediate_exit = 1; /* completes the I/O it parked with */
        ioctl(vcpu->fd, KVM_RUN, 0);
        run->immediate_exit = 0;
        ioctl(vcpu->fd, KVM_SET_SREGS, sregs);
        ioctl(vcpu->fd, KVM_SET_REGS, regs);
        if (ioctl(vcpu->fd, KVM_RUN, 0) || run->exit_reason != KVM_EXIT_IO || run->io.port != PORT_PARK)
            return 0;
    }
    uint64_t spent = bare_now_ns() - start;
    run->immediate_exit = 1;
    return spent / times;
}

/* The ioctls that give a vCPU a state, one after the other; 0 if the kernel refuses one. */
uint64_t lk_kvm_bare_load_ns(int vcpu_fd, const lk_load *loads, unsigned count)
{
    uint64_t start = bare_now_ns();
    for (unsigned i = 0; i < count; i++)
        if (ioctl(vcpu_fd, loads[i].request, loads[i].state) < 0)
            return 0;
    return bare_now_ns() - start;
}
