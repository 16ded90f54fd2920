/* What leaves an emulated guest: ports, MMIO, and the few instructions that ask something of the machine.
 *
 * The library calls back in the middle of an instruction. What the core does not serve goes up to Python from there, and
 * the turn ends before the next instruction, so that whatever the exit changed is seen at once. */
#include "emulated.h"
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>

#define NUMBER unicorn.number
#define PHYSICAL_END (UINT64_C(1) << 40) /* as CPUID says: 40 bits of physical address */
enum { PHYSICAL_BITS = 40, LINEAR_BITS = 48 };

/* Made by cffi; labkit/cpu/emulated.py is behind it. */
void lk_python_exit(void *python, lk_vcpu *vcpu);

void emulated_hand_up(emulated_cpu *cpu)
{
    lk_python_exit(cpu->emulated->python, cpu->vcpu);
}

/* -- ioeventfds: KVM_IOEVENTFD's own rules --------------------------------------------------------------------------- */

/* Which eventfd is it? Another fd of the same one has the same answer. -EBADF, -EINVAL: none. */
static int eventfd_id(int fd)
{
    char path[64], line[128];
    int id = -EINVAL;
    snprintf(path, sizeof path, "/proc/self/fdinfo/%d", fd);
    FILE *file = fopen(path, "re");
    if (!file)
        return -EBADF;
    while (fgets(line, sizeof line, file)) {
        if (!strncmp(line, "eventfd-count:", 14) && id < 0)
            id = fd; /* an old kernel has no id: then the number must do */
        (void)sscanf(line, "eventfd-id: %d", &id);
    }
    fclose(file);
    return id;
}

static int fits(const ioeventfd *one, uint64_t address, uint32_t length, uint64_t value)
{
    return one->address == address && (!one->length || (one->length == length && (one->any || one->value == value)));
}

static int collides(const ioeventfd *one, const ioeventfd *other)
{
    return one->address == other->address &&
           (!one->length || !other->length ||
            (one->length == other->length && (one->any || other->any || one->value == other->value)));
}

static int assign(lk_emulated *emulated, ioeventfd kick, int fd)
{
    for (unsigned i = 0; i < emulated->kick_count; i++)
        if (collides(&emulated->kicks[i], &kick))
            return -EEXIST;
    if (emulated->kick_count == IOEVENTFDS_MAX)
        return -ENOSPC;
    kick.fd = fcntl(fd, F_DUPFD_CLOEXEC, 0); /* a reference of our own: who closes theirs still has it assigned */
    if (kick.fd < 0)
        return -errno;
    kick.blocks = !(fcntl(kick.fd, F_GETFL) & O_NONBLOCK);
    emulated->kicks[emulated->kick_count] = kick;
    store_release(&emulated->kick_count, emulated->kick_count + 1);
    return 0;
}

static int deassign(lk_emulated *emulated, const ioeventfd *kick)
{
    for (unsigned i = 0; i < emulated->kick_count; i++) {
        ioeventfd *one = &emulated->kicks[i];
        if (one->address != kick->address || one->length != kick->length || one->id != kick->id ||
            one->any != kick->any || (!one->any && one->value != kick->value))
            continue;
        close(one->fd);
        *one = emulated->kicks[emulated->kick_count - 1];
        store_release(&emulated->kick_count, emulated->kick_count - 1);
        return 0;
    }
    return -ENOENT;
}

static int is_length(uint32_t length)
{
    return length <= 8 && (length & (length - 1)) == 0;
}

/* 0, or the errno that the kernel would give. When a deassign is back, no vCPU can still signal: the mutex saw to it. */
int lk_emulated_ioeventfd(lk_emulated *emulated, uint64_t address, uint32_t length, uint64_t value, int fd,
                          uint32_t flags)
{
    int any = !(flags & IOEVENTFD_DATAMATCH);
    ioeventfd kick = {.address = address, .value = value, .length = length, .any = any, .id = eventfd_id(fd)};
    int deassigns = flags & IOEVENTFD_DEASSIGN ? 1 : 0;
    if (!deassigns && (!is_length(length) || address + length < address || (!length && !any) ||
                       flags & ~(uint32_t)(IOEVENTFD_DATAMATCH | IOEVENTFD_PIO)))
        return -EINVAL;
    if (kick.id < 0)
        return kick.id;
    pthread_mutex_lock(&emulated->mutex);
    int result = deassigns ? deassign(emulated, &kick) : assign(emulated, kick, fd);
    pthread_mutex_unlock(&emulated->mutex);
    return result;
}

/* An eventfd at its limit takes no more, and nobody waits for it. */
static void signal_eventfd(const ioeventfd *kick)
{
    const uint64_t one = 1;
    struct pollfd room = {.fd = kick->fd, .events = POLLOUT};
    if (!kick->blocks || (poll(&room, 1, 0) == 1 && room.revents & POLLOUT))
        (void)!write(kick->fd, &one, sizeof one);
}

/* 1 if the write was a kick that an eventfd stands for: nothing else hears of it. */
static int signalled(emulated_cpu *cpu, uint16_t port, unsigned width, uint32_t value)
{
    lk_emulated *emulated = cpu->emulated;
    int found = 0;
    if (!load_acquire(&emulated->kick_count))
        return 0;
    pthread_mutex_lock(&emulated->mutex);
    for (unsigned i = 0; i < emulated->kick_count && !found; i++)
        if ((found = fits(&emulated->kicks[i], port, width, value)))
            signal_eventfd(&emulated->kicks[i]);
    pthread_mutex_unlock(&emulated->mutex);
    cpu->counts.signal_kicks += (uint64_t)found;
    return found;
}

/* -- ports ------------------------------------------------------------------------------------------------------------ */

/* The access is over when this returns. The turn ends, unless the core served it and nothing else is to be done. */
static void port_access(emulated_cpu *cpu, int write, uint32_t port, int width, uint32_t *value)
{
    lk_exit *left = &cpu->vcpu->exit;
    uint8_t data[sizeof *value];
    cpu->counts.exits++;
    cpu->counts.io_exits++;
    cpu->stopping = 1;
    lk_irqchip_set_time(cpu->emulated->chip, emulated_timer_ns(cpu->emulated));
    if (lk_irqchip_port(cpu->emulated->chip, (uint16_t)port, (unsigned)width, write, value))
        return;
    memcpy(data, value, sizeof data);
    *left = (lk_exit){.kind = LEFT_IO,
                      .write = (uint8_t)write,
                      .width = (uint8_t)width,
                      .port = (uint16_t)port,
                      .count = 1,
                      .data = data};
    if (vcpu_served_port(cpu->vcpu, left))
        cpu->stopping = emulated_has_news(cpu);
    else
        emulated_hand_up(cpu);
    memcpy(value, data, sizeof data);
}

static uint32_t port_read(uc_engine *engine, uint32_t port, int width, void *user)
{
    uint32_t value = 0;
    emulated_cpu *cpu = user;
    cpu->at_port = unicorn_read(engine, NUMBER.X86_REG_RIP);
    port_access(cpu, 0, port, width, &value);
    return value;
}

static void port_write(uc_engine *engine, uint32_t port, int width, uint32_t value, void *user)
{
    (void)engine;
    if (width < (int)sizeof value)
        value &= (UINT32_C(1) << 8 * width) - 1;
    if (!signalled(user, (uint16_t)port, (unsigned)width, value))
        port_access(user, 1, port, width, &value);
}

/* -- MMIO: everything that is not RAM ---------------------------------------------------------------------------------- */

static void mmio_access(emulated_cpu *cpu, int write, uint64_t offset, unsigned width, uint64_t *value)
{
    uint64_t gpa = cpu->vcpu->machine->memory.bytes + offset;
    cpu->counts.exits++;
    cpu->counts.mmio_exits++;
    cpu->stopping = 1;
    lk_irqchip_set_time(cpu->emulated->chip, emulated_timer_ns(cpu->emulated));
    if (lk_irqchip_mmio(cpu->emulated->chip, (unsigned)cpu->vcpu->index, gpa, width, write, value)) {
        cpu->interrupted = lk_irqchip_pending(cpu->emulated->chip, (unsigned)cpu->vcpu->index);
        cpu->since_short = 0;
        cpu->stopping = emulated_has_news(cpu);
        return;
    }
    cpu->vcpu->exit = (lk_exit){.kind = LEFT_MMIO,
                                .write = (uint8_t)write,
                                .width = (uint8_t)width,
                                .count = 1,
                                .gpa = gpa,
                                .data = (uint8_t *)value};
    emulated_hand_up(cpu);
}

static uint64_t mmio_read(uc_engine *engine, uint64_t offset, unsigned width, void *user)
{
    uint64_t value = 0;
    (void)engine;
    mmio_access(user, 0, offset, width, &value);
    return value;
}

static void mmio_write(uc_engine *engine, uint64_t offset, unsigned width, uint64_t value, void *user)
{
    (void)engine;
    mmio_access(user, 1, offset, width, &value);
}

/* -- instructions ------------------------------------------------------------------------------------------------------ */

/* May the guest have allowed interrupts since the last look? STI, POPF and IRET are short, and the instruction after STI
 * belongs to it. To ask the library for the flags before each instruction takes longer than the instruction. */
static int may_be_allowed(const emulated_cpu *cpu)
{
    enum { STI_AND_NEXT = 2 };
    return cpu->since_short < STI_AND_NEXT && emulated_may_interrupt(cpu);
}

/* Before each one. The fence stands for the barriers that the library leaves out of a guest with one CPU: here other
 * threads look at the guest's rings, and must see its stores in their order. */
static void on_instruction(uc_engine *engine, uint64_t address, uint32_t bytes, void *user)
{
    enum { SHORT_BYTES = 2 };
    emulated_cpu *cpu = user;
    full_barrier();
    if (cpu->stopping || !cpu->left || (cpu->interrupted && may_be_allowed(cpu))) {
        cpu->stopping = 1;
        unicorn.emu_stop(engine);
        return;
    }
    cpu->left--;
    cpu->last = address;
    cpu->since_short = bytes <= SHORT_BYTES ? 0 : cpu->since_short + 1;
}

static void raised(emulated_cpu *cpu, int exception)
{
    cpu->exception = exception;
    cpu->stopping = 1;
    unicorn.emu_stop(cpu->cpu); /* here, for there may be no next instruction */
}

static void on_exception(uc_engine *engine, uint32_t number, void *user)
{
    (void)engine;
    raised(user, (int)number);
}

static int on_unknown_instruction(uc_engine *engine, void *user)
{
    enum { EXCEPTION_UD = 6 };
    (void)engine;
    raised(user, EXCEPTION_UD);
    return 1; /* handled: the library need not fail */
}

static int on_rdtsc(uc_engine *engine, void *user)
{
    emulated_cpu *cpu = user;
    uint64_t now = emulated_tsc(cpu->emulated);
    unicorn_write(engine, NUMBER.X86_REG_RAX, now & UINT32_MAX);
    unicorn_write(engine, NUMBER.X86_REG_RDX, now >> 32);
    return 1;
}

static int on_rdtscp(uc_engine *engine, void *user)
{
    unicorn_write(engine, NUMBER.X86_REG_RCX, (uint64_t)((emulated_cpu *)user)->vcpu->index);
    return on_rdtsc(engine, user);
}

typedef struct {
    uint32_t eax, ebx, ecx, edx;
} leaf;

/* What a guest may use: the plain 64-bit CPU, a local APIC, and that it is not alone. */
static leaf cpuid(const emulated_cpu *cpu, uint32_t function)
{
    enum { FPU = 1 << 0, PSE = 1 << 3, TSC = 1 << 4, MSR = 1 << 5, PAE = 1 << 6, CX8 = 1 << 8, APIC = 1 << 9 };
    enum { PGE = 1 << 13, CMOV = 1 << 15, FXSR = 1 << 24, SSE = 1 << 25, SSE2 = 1 << 26 };
    enum { SYSCALL = 1 << 11, NX = 1 << 20, LONG_MODE = 1 << 29, LAHF = 1 };
    const uint32_t hypervisor = UINT32_C(1) << 31, family_6 = 0x600;
    const uint32_t features = FPU | PSE | TSC | MSR | PAE | CX8 | APIC | PGE | CMOV | FXSR | SSE | SSE2;
    switch (function) {
    case 0:
        return (leaf){1, 0x6b62616c, 0x646c7465, 0x55504374}; /* "labk" "tCPU" "etld" */
    case 1:
        return (leaf){family_6, (uint32_t)cpu->vcpu->index << 24 | cpu->emulated->vcpus << 16, hypervisor, features};
    case 0x80000000:
        return (leaf){.eax = 0x80000008};
    case 0x80000001:
        return (leaf){.ecx = LAHF, .edx = SYSCALL | NX | LONG_MODE};
    case 0x80000008:
        return (leaf){.eax = LINEAR_BITS << 8 | PHYSICAL_BITS};
    default:
        return (leaf){0};
    }
}

static int on_cpuid(uc_engine *engine, void *user)
{
    leaf answer = cpuid(user, (uint32_t)unicorn_read(engine, NUMBER.X86_REG_RAX));
    unicorn_write(engine, NUMBER.X86_REG_RAX, answer.eax);
    unicorn_write(engine, NUMBER.X86_REG_RBX, answer.ebx);
    unicorn_write(engine, NUMBER.X86_REG_RCX, answer.ecx);
    unicorn_write(engine, NUMBER.X86_REG_RDX, answer.edx);
    return 1;
}

/* -- set up ------------------------------------------------------------------------------------------------------------- */

static int hook(emulated_cpu *cpu, int kind, void *function)
{
    size_t handle;
    return unicorn.hook_add(cpu->cpu, &handle, kind, function, cpu, 1, 0); /* from 1 to 0: everywhere */
}

static int hook_instruction(emulated_cpu *cpu, int instruction, void *function)
{
    size_t handle;
    return unicorn.hook_add(cpu->cpu, &handle, NUMBER.HOOK_INSN, function, cpu, 1, 0, instruction);
}

int emulated_io_set_up(emulated_cpu *cpu)
{
    const lk_memory *memory = &cpu->vcpu->machine->memory;
    int failed =
        unicorn.mem_map_ptr(cpu->cpu, 0, memory->bytes, (uint32_t)NUMBER.PROT_ALL, memory->host) ||
        unicorn.mmio_map(cpu->cpu, memory->bytes, PHYSICAL_END - memory->bytes, mmio_read, cpu, mmio_write, cpu) ||
        hook(cpu, NUMBER.HOOK_CODE, (void *)on_instruction) || hook(cpu, NUMBER.HOOK_INTR, (void *)on_exception) ||
        hook(cpu, NUMBER.HOOK_INSN_INVALID, (void *)on_unknown_instruction) ||
        hook_instruction(cpu, NUMBER.X86_INS_IN, (void *)port_read) ||
        hook_instruction(cpu, NUMBER.X86_INS_OUT, (void *)port_write) ||
        hook_instruction(cpu, NUMBER.X86_INS_CPUID, (void *)on_cpuid) ||
        hook_instruction(cpu, NUMBER.X86_INS_RDTSC, (void *)on_rdtsc) ||
        hook_instruction(cpu, NUMBER.X86_INS_RDTSCP, (void *)on_rdtscp);
    return failed ? -ENOMEM : 0;
}
