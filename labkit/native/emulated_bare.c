/* The raw floors of the emulated CPU: a bare loop around the Unicorn library.
 *
 * A library's CPU cannot change its hooks, so the loop has one of its own on the same memory, which takes over the
 * registers of the stopped vCPU and gives them back after the step. It is asked what nobody can do without: the guest's
 * ports, its clock, and the end of an interrupt. It counts no instruction and takes no turns, it is interrupted where the
 * lab's guests let it (in hlt), and it believes what the guest's tables say. */
#include "bare.h"
#include "emulated.h"
#include <sys/epoll.h>

#define HOLD_MS 5000 /* the machine is paused: its thread stands still at once */
#define NUMBER unicorn.number
#define PHYSICAL_BYTES (UINT64_C(1) << 40)
#define HALT_MS 1000 /* a driver that is not interrupted within that time never is */

struct lk_bare_cpu {
    emulated_cpu *of; /* whose registers */
    emulated_cpu self; /* only what a guest's beginning needs */
    uc_engine *cpu;
    uc_context *context;
    lk_bare *bare; /* the step it does */
    uint32_t command; /* what the guest finds where it parks; then it is told nothing, and the loop ends */
    int parked, interrupt_due;
};

/* -- what the guest asks of it ------------------------------------------------------------------------------------- */

static void bare_out(uc_engine *engine, uint32_t port, int width, uint32_t value, void *user)
{
    lk_bare_cpu *cpu = user;
    lk_bare *bare = cpu->bare;
    (void)engine, (void)width, (void)value;
    if (port != bare->notify_port)
        return;
    if (bare->eventfd >= 0)
        bare_signal(bare->eventfd);
    else if (bare->device)
        cpu->interrupt_due |= bare_serve(bare);
}

static uint32_t bare_in(uc_engine *engine, uint32_t port, int width, void *user)
{
    lk_bare_cpu *cpu = user;
    uint32_t command = cpu->command;
    (void)width;
    if (port != PORT_PARK)
        return 0;
    cpu->command = CMD_NONE;
    if (command == CMD_NONE) {
        cpu->parked = 1;
        unicorn.emu_stop(engine);
    }
    return command;
}

static int bare_rdtsc(uc_engine *engine, void *user)
{
    uint64_t now = emulated_tsc(((lk_bare_cpu *)user)->of->emulated);
    unicorn_write(engine, NUMBER.X86_REG_RAX, now & UINT32_MAX);
    unicorn_write(engine, NUMBER.X86_REG_RDX, now >> 32);
    return 1;
}

static uint64_t bare_mmio_read(uc_engine *engine, uint64_t offset, unsigned width, void *user)
{
    (void)engine, (void)offset, (void)width, (void)user;
    return 0;
}

/* The guest tells its local APIC that an interrupt is over. */
static void bare_mmio_write(uc_engine *engine, uint64_t offset, unsigned width, uint64_t value, void *user)
{
    (void)engine, (void)offset, (void)width, (void)value, (void)user;
}

/* -- the loop ------------------------------------------------------------------------------------------------------ */

/* Long mode, and every linear address is the physical one: so it is in the lab's guests. */
static void take_interrupt(lk_bare_cpu *cpu, uint64_t *rip)
{
    enum { GATE_BYTES = 16, FLAG_IF = 1 << 9 };
    uint8_t *ram = cpu->of->vcpu->machine->memory.host;
    unsigned queue_vector = cpu->of->vcpu->device->vq[0].vector;
    uint8_t vector = (uint8_t)cpu->of->emulated->messages[queue_vector % MSIX_VECTORS_MAX].data;
    uint64_t rsp = unicorn_read(cpu->cpu, NUMBER.X86_REG_RSP), flags = unicorn_read(cpu->cpu, NUMBER.X86_REG_EFLAGS);
    uint64_t frame[] = {*rip, unicorn_read(cpu->cpu, NUMBER.X86_REG_CS), flags, rsp,
                        unicorn_read(cpu->cpu, NUMBER.X86_REG_SS)};
    uint16_t low, middle;
    uc_table idt;
    unicorn.reg_read(cpu->cpu, NUMBER.X86_REG_IDTR, &idt);
    const uint8_t *gate = ram + idt.base + (size_t)GATE_BYTES * vector;
    memcpy(&low, gate, sizeof low);
    memcpy(&middle, gate + 6, sizeof middle);
    rsp = (rsp & ~UINT64_C(15)) - sizeof frame;
    memcpy(ram + rsp, frame, sizeof frame);
    unicorn_write(cpu->cpu, NUMBER.X86_REG_RSP, rsp);
    unicorn_write(cpu->cpu, NUMBER.X86_REG_EFLAGS, flags & ~(uint64_t)FLAG_IF);
    *rip = (uint64_t)middle << 16 | low;
}

/* From `rip` until the guest parks with nothing to do. 0 or -errno. */
static int run_until_parked(lk_bare_cpu *cpu, uint64_t *rip, int halts_fd)
{
    struct epoll_event event;
    cpu->parked = 0;
    for (;;) {
        int error = unicorn.emu_start(cpu->cpu, *rip, 0, 0, 0);
        *rip = unicorn_read(cpu->cpu, NUMBER.X86_REG_RIP);
        if (error)
            return -EIO;
        if (cpu->parked)
            return 0;
        if (halts_fd < 0)
            return -EIO;
        while (!cpu->interrupt_due) {
            int count = epoll_wait(halts_fd, &event, 1, HALT_MS);
            if (!count)
                return -ETIME;
            cpu->interrupt_due = count > 0;
        }
        cpu->interrupt_due = 0;
        take_interrupt(cpu, rip);
    }
}

/* The registers of one go to the other; both stand still. */
static void hand(lk_bare_cpu *cpu, uc_engine *from, uc_engine *to)
{
    unicorn.context_save(from, cpu->context);
    unicorn.context_restore(to, cpu->context);
}

static int bare_run(lk_bare *bare, uint32_t command)
{
    lk_bare_cpu *cpu = bare->cpu;
    struct epoll_event event = {.events = EPOLLIN | EPOLLET};
    int halts_fd = epoll_create1(EPOLL_CLOEXEC);
    if (halts_fd < 0)
        return -errno;
    if (epoll_ctl(halts_fd, EPOLL_CTL_ADD, bare->interrupt_fd, &event)) {
        close(halts_fd);
        return -EBADF;
    }
    /* A parked vCPU counts as stopped, but its thread may still be on its way out of the library. */
    int failed = lk_emulated_hold(cpu->of->emulated, HOLD_MS) ? 0 : -EBUSY;
    if (!failed) {
        cpu->bare = bare;
        cpu->command = command;
        hand(cpu, cpu->of->cpu, cpu->cpu);
        failed = run_until_parked(cpu, &cpu->of->rip, halts_fd);
        hand(cpu, cpu->cpu, cpu->of->cpu);
        cpu->of->halted = 0;
        lk_emulated_let_go(cpu->of->emulated);
    }
    close(halts_fd);
    return failed;
}

/* 0 or -errno; -EIO if the guest left in an unexpected way, -ETIME if nobody interrupted it. */
int lk_emulated_bare_step(lk_bare *bare, uint32_t command)
{
    return bare_step(bare, command, bare_run);
}

/* Registers set back and the guest run to where it parks, the least a reset can be. The guest's code is translated again,
 * as it must be where its image was written anew. */
uint64_t lk_emulated_bare_reset_ns(lk_bare_cpu *cpu, const lk_entry *entry, unsigned times)
{
    lk_bare nothing = {.eventfd = -1};
    int failed = 0;
    if (!lk_emulated_hold(cpu->of->emulated, HOLD_MS))
        return 0;
    cpu->bare = &nothing;
    emulated_enter(&cpu->self, entry);
    unicorn.context_save(cpu->cpu, cpu->context);
    uint64_t start = bare_now_ns();
    for (unsigned i = 0; i < times && !failed; i++) {
        unicorn.context_restore(cpu->cpu, cpu->context);
        unicorn_forget_code(cpu->cpu);
        cpu->of->rip = entry->registers.rip;
        failed = run_until_parked(cpu, &cpu->of->rip, -1);
    }
    uint64_t spent = bare_now_ns() - start;
    hand(cpu, cpu->cpu, cpu->of->cpu);
    lk_emulated_let_go(cpu->of->emulated);
    return failed ? 0 : spent / times;
}

/* The registers set, all at once. */
uint64_t lk_emulated_bare_load_ns(lk_bare_cpu *cpu)
{
    unicorn.context_save(cpu->cpu, cpu->context);
    uint64_t start = bare_now_ns();
    unicorn.context_restore(cpu->cpu, cpu->context);
    return bare_now_ns() - start;
}

/* -- from creation to the end -------------------------------------------------------------------------------------- */

static int set_up(lk_bare_cpu *cpu)
{
    size_t hook;
    const lk_memory *memory = &cpu->of->vcpu->machine->memory;
    return unicorn.context_alloc(cpu->cpu, &cpu->context) ||
           unicorn.mem_map_ptr(cpu->cpu, 0, memory->bytes, (uint32_t)NUMBER.PROT_ALL, memory->host) ||
           unicorn.mmio_map(cpu->cpu, memory->bytes, PHYSICAL_BYTES - memory->bytes, bare_mmio_read, cpu,
                            bare_mmio_write, cpu) ||
           unicorn.hook_add(cpu->cpu, &hook, NUMBER.HOOK_INSN, (void *)bare_in, cpu, 1, 0, NUMBER.X86_INS_IN) ||
           unicorn.hook_add(cpu->cpu, &hook, NUMBER.HOOK_INSN, (void *)bare_out, cpu, 1, 0, NUMBER.X86_INS_OUT) ||
           unicorn.hook_add(cpu->cpu, &hook, NUMBER.HOOK_INSN, (void *)bare_rdtsc, cpu, 1, 0, NUMBER.X86_INS_RDTSC);
}

/* A CPU for the steps of this emulated vCPU; NULL if the library has none. */
lk_bare_cpu *lk_emulated_bare_new(lk_vcpu *vcpu)
{
    lk_bare_cpu *cpu = calloc(1, sizeof *cpu);
    if (!cpu)
        return NULL;
    cpu->of = vcpu->own;
    cpu->cpu = unicorn_open();
    cpu->self = *cpu->of;
    cpu->self.cpu = cpu->cpu;
    if (!cpu->cpu || set_up(cpu)) {
        lk_emulated_bare_free(cpu);
        return NULL;
    }
    return cpu;
}

void lk_emulated_bare_free(lk_bare_cpu *cpu)
{
    if (cpu && cpu->context)
        unicorn.context_free(cpu->context);
    if (cpu && cpu->cpu)
        unicorn.close(cpu->cpu);
    free(cpu);
}

static void left(uc_engine *engine, uint32_t port, int width, uint32_t value, void *user)
{
    (void)port, (void)width, (void)value;
    *(int *)user = 1;
    unicorn.emu_stop(engine);
}

/* A CPU as the library opens it, memory, and one instruction that leaves the guest. */
uint64_t lk_emulated_bare_boot_ns(void)
{
    enum { BYTES = 1 << 20, CODE_AT = 0x1000 };
    const uint8_t code[] = {0xe6, 0x80, 0xf4}; /* out 0x80, al; hlt */
    uc_engine *cpu = NULL;
    size_t hook;
    int has_left = 0;
    uint64_t start = bare_now_ns();
    uint8_t *ram = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (ram == MAP_FAILED)
        return 0;
    memcpy(ram + CODE_AT, code, sizeof code);
    if (!unicorn.open(NUMBER.ARCH_X86, NUMBER.MODE_64, &cpu)) {
        unicorn.mem_map_ptr(cpu, 0, BYTES, (uint32_t)NUMBER.PROT_ALL, ram);
        unicorn.hook_add(cpu, &hook, NUMBER.HOOK_INSN, (void *)left, &has_left, 1, 0, NUMBER.X86_INS_OUT);
        unicorn.emu_start(cpu, CODE_AT, 0, 0, 0);
    }
    uint64_t spent = bare_now_ns() - start;
    if (cpu)
        unicorn.close(cpu);
    munmap(ram, BYTES);
    return has_left ? spent : 0;
}
