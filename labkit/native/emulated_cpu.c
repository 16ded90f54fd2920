/* The registers of an emulated vCPU: how a guest begins, what the guest is told of its CPU, and where its memory is.
 *
 * Segment registers have hidden parts that can only be loaded from a table in memory. That is done once, before the
 * guest's memory is there; a reset goes back to the state saved then. */
#include "emulated.h"

#define NUMBER unicorn.number

enum { CR0_PE = 1, CR0_ET = 1 << 4, CR4_PSE = 1 << 4, CR4_PAE = 1 << 5, EFER_LME = 1 << 8, EFER_LMA = 1 << 10 };
#define CR0_PG UINT64_C(0x80000000)
#define MSR_EFER UINT32_C(0xc0000080)
#define TABLE_LIMIT 0xffff

/* -- how a guest begins -------------------------------------------------------------------------------------------- */

/* A segment register gets its hidden part only by an instruction that loads it. So a few instructions are executed, once,
 * before guest memory is there; what they leave is kept, for each mode. */
enum { NULL_SEGMENT = 0, CODE = 0x08, DATA = 0x10, CODE_64 = 0x18, CODE_16 = 0x20, DATA_16 = 0x28, TABLE_BYTES = 0x30 };
enum { CODE_AT = 0x800, PML4 = 0x1000, PDPT = 0x2000, PD = 0x3000, SCRATCH_BYTES = 0x4000 };

static void set_table(emulated_cpu *cpu, int which, uint32_t limit)
{
    uc_table table = {.limit = limit};
    unicorn.reg_write(cpu->cpu, which, &table);
}

/* The descriptors, and page tables for the first 2 MiB. */
static void write_scratch(uint8_t *scratch)
{
    const uint64_t table[] = {
        0, 0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00af9b000000ffff, 0x00009b000000ffff, 0x000093000000ffff};
    const uint64_t next[3][2] = {
        {PML4, PDPT | 3}, {PDPT, PD | 3}, {PD, 0x83}}; /* present, writable; the last one large */
    memcpy(scratch, table, sizeof table);
    for (int i = 0; i < 3; i++)
        memcpy(scratch + next[i][0], &next[i][1], sizeof next[i][1]);
}

/* In 32-bit or 16-bit code: every data segment, then the code segment by a far jump to a hlt. */
static void load_segments(emulated_cpu *cpu, uint8_t *scratch, int wide, uint16_t data, uint16_t code)
{
    uint8_t text[] = {0x8e, 0xd8, 0x8e, 0xc0, 0x8e, 0xe0, 0x8e, 0xe8, 0x8e, 0xd0, 0xea, 0, 0, 0, 0, 0, 0, 0xf4};
    uint8_t *operand = text + 11;
    const uint32_t hlt = CODE_AT + sizeof text - 1;
    unsigned width = wide ? sizeof hlt : sizeof(uint16_t);
    memcpy(operand, &hlt, width);
    memcpy(operand + width, &code, sizeof code);
    memcpy(scratch + CODE_AT, text, sizeof text);
    unicorn_forget_code(cpu->cpu);
    unicorn_write(cpu->cpu, NUMBER.X86_REG_RAX, data);
    unicorn.emu_start(cpu->cpu, CODE_AT, 0, 0, 0);
}

static int keep(emulated_cpu *cpu, uc_context **context)
{
    set_table(cpu, NUMBER.X86_REG_GDTR, TABLE_LIMIT);
    int failed = unicorn.context_alloc(cpu->cpu, context) || unicorn.context_save(cpu->cpu, *context);
    set_table(cpu, NUMBER.X86_REG_GDTR, TABLE_BYTES - 1);
    return failed ? -ENOMEM : 0;
}

/* Protected mode as a multiboot loader leaves it; long mode as the lab's own entry has it (guests/README.md); real mode,
 * in which an application processor starts. */
static int keep_modes(emulated_cpu *cpu, uint8_t *scratch)
{
    int failed;
    unicorn_write(cpu->cpu, NUMBER.X86_REG_CR0, CR0_PG | CR0_PE | CR0_ET); /* on and off again: out of long mode, */
    unicorn_write(cpu->cpu, NUMBER.X86_REG_CR0, CR0_PE | CR0_ET);          /* in which the library opens a CPU */
    unicorn_write_msr(cpu->cpu, MSR_EFER, 0);
    unicorn_write(cpu->cpu, NUMBER.X86_REG_CR4, 0);
    set_table(cpu, NUMBER.X86_REG_IDTR, TABLE_LIMIT);
    set_table(cpu, NUMBER.X86_REG_GDTR, TABLE_BYTES - 1);
    load_segments(cpu, scratch, 1, DATA, CODE);
    failed = keep(cpu, &cpu->protected_mode);
    unicorn_write(cpu->cpu, NUMBER.X86_REG_CR4, CR4_PAE);
    unicorn_write(cpu->cpu, NUMBER.X86_REG_CR3, PML4);
    unicorn_write_msr(cpu->cpu, MSR_EFER, EFER_LME);
    unicorn_write(cpu->cpu, NUMBER.X86_REG_CR0, CR0_PG | CR0_PE | CR0_ET);
    load_segments(cpu, scratch, 1, DATA, CODE_64);
    unicorn_write(cpu->cpu, NUMBER.X86_REG_CS, CODE); /* the selector that the contract names */
    failed = failed ? failed : keep(cpu, &cpu->long_mode);
    unicorn.context_restore(cpu->cpu, cpu->protected_mode);
    set_table(cpu, NUMBER.X86_REG_GDTR, TABLE_BYTES - 1);
    load_segments(cpu, scratch, 1, DATA_16, CODE_16);
    unicorn_write(cpu->cpu, NUMBER.X86_REG_CR0, CR0_ET);
    load_segments(cpu, scratch, 0, NULL_SEGMENT, NULL_SEGMENT);
    return failed ? failed : keep(cpu, &cpu->real_mode);
}

int emulated_cpu_set_up(emulated_cpu *cpu)
{
    uint8_t *scratch = mmap(NULL, SCRATCH_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (scratch == MAP_FAILED)
        return -errno;
    write_scratch(scratch);
    int failed = unicorn.mem_map_ptr(cpu->cpu, 0, SCRATCH_BYTES, (uint32_t)NUMBER.PROT_ALL, scratch) ? -ENOMEM : 0;
    if (!failed) {
        failed = keep_modes(cpu, scratch);
        unicorn.mem_unmap(cpu->cpu, 0, SCRATCH_BYTES);
    }
    munmap(scratch, SCRATCH_BYTES);
    return failed;
}

void emulated_cpu_free(emulated_cpu *cpu)
{
    uc_context *kept[] = {cpu->protected_mode, cpu->long_mode, cpu->real_mode};
    for (size_t i = 0; i < sizeof kept / sizeof *kept; i++)
        if (kept[i])
            unicorn.context_free(kept[i]);
    if (cpu->cpu)
        unicorn.close(cpu->cpu);
}

static const int *general_registers(void)
{
    static int in_order[sizeof(lk_registers) / sizeof(uint64_t)];
    const int all[] = {
        NUMBER.X86_REG_RAX, NUMBER.X86_REG_RBX, NUMBER.X86_REG_RCX,    NUMBER.X86_REG_RDX, NUMBER.X86_REG_RSI,
        NUMBER.X86_REG_RDI, NUMBER.X86_REG_RSP, NUMBER.X86_REG_RBP,    NUMBER.X86_REG_R8,  NUMBER.X86_REG_R9,
        NUMBER.X86_REG_R10, NUMBER.X86_REG_R11, NUMBER.X86_REG_R12,    NUMBER.X86_REG_R13, NUMBER.X86_REG_R14,
        NUMBER.X86_REG_R15, NUMBER.X86_REG_RIP, NUMBER.X86_REG_EFLAGS,
    };
    memcpy(in_order, all, sizeof all);
    return in_order;
}

enum { REGISTERS = sizeof(lk_registers) / sizeof(uint64_t) };

void lk_emulated_registers(lk_emulated *emulated, unsigned index, lk_registers *out)
{
    const emulated_cpu *cpu = &emulated->cpus[index % VCPUS_MAX];
    uint64_t *value = &out->rax;
    for (int i = 0; i < REGISTERS; i++)
        value[i] = unicorn_read(cpu->cpu, general_registers()[i]);
    out->rip = cpu->rip; /* a parked guest is where it reads the port, whatever the library has made of that */
}

void emulated_write_registers(emulated_cpu *cpu, const lk_registers *registers)
{
    const uint64_t *value = &registers->rax;
    for (int i = 0; i < REGISTERS; i++)
        unicorn_write(cpu->cpu, general_registers()[i], value[i]);
    cpu->rip = registers->rip;
}

void emulated_enter(emulated_cpu *cpu, const lk_entry *entry)
{
    unicorn.context_restore(cpu->cpu, entry->long_mode ? cpu->long_mode : cpu->protected_mode);
    if (entry->long_mode)
        unicorn_write(cpu->cpu, NUMBER.X86_REG_CR3, entry->cr3);
    emulated_write_registers(cpu, &entry->registers);
}

static void begin(emulated_cpu *cpu, const lk_entry *entry)
{
    emulated_enter(cpu, entry);
    unicorn_forget_code(cpu->cpu);
    cpu->waits_for_sipi = entry->waits_for_sipi;
    cpu->halted = 0;
    cpu->exception = NO_EXCEPTION;
    lk_irqchip_reset_vcpu(cpu->emulated->chip, (unsigned)cpu->vcpu->index);
}

int emulated_load(emulated_cpu *cpu)
{
    const lk_vcpu_sync *sync = cpu->vcpu->sync;
    for (unsigned i = 0; i < sync->load_count; i++) {
        if (sync->loads[i].request != LOAD_ENTRY)
            return -EINVAL;
        begin(cpu, sync->loads[i].state);
    }
    return 0;
}

/* An application processor that was told to start: real mode, at the page that the message names. It gets there by a far
 * jump that stands in its memory for a moment; nobody else executes meanwhile. */
void emulated_start_up(emulated_cpu *cpu, uint8_t sipi_vector)
{
    uint8_t jump[] = {0xea, 0, 0, 0, sipi_vector}, kept[sizeof jump], *ram = cpu->vcpu->machine->memory.host;
    memcpy(kept, ram, sizeof kept);
    memcpy(ram, jump, sizeof jump);
    unicorn.context_restore(cpu->cpu, cpu->real_mode);
    unicorn_forget_code(cpu->cpu);
    cpu->left = 1;
    cpu->stopping = 0;
    unicorn.emu_start(cpu->cpu, 0, 0, 0, 0);
    memcpy(ram, kept, sizeof kept);
    unicorn_forget_code(cpu->cpu);
    cpu->rip = 0;
    cpu->waits_for_sipi = cpu->halted = 0;
}

/* -- where its memory is ------------------------------------------------------------------------------------------- */

enum { PAGE_PRESENT = 1, PAGE_LARGE = 1 << 7 };
#define FRAME UINT64_C(0x000ffffffffff000)

/* One level of page tables: the entry for `linear`, or 0. */
static uint64_t entry_of(const emulated_cpu *cpu, uint64_t table, uint64_t linear, unsigned shift, unsigned bits,
                         unsigned bytes)
{
    uint64_t entry = 0, at = table + bytes * (linear >> shift & ((UINT64_C(1) << bits) - 1));
    const void *host = lk_memory_at(&cpu->vcpu->machine->memory, at, bytes);
    if (host)
        memcpy(&entry, host, bytes);
    return entry & PAGE_PRESENT ? entry : 0;
}

/* Guest-physical address of a linear one; 0 if it has none. */
static int physical(const emulated_cpu *cpu, uint64_t linear, uint64_t *gpa)
{
    uint64_t cr0 = unicorn_read(cpu->cpu, NUMBER.X86_REG_CR0), cr4 = unicorn_read(cpu->cpu, NUMBER.X86_REG_CR4);
    uint64_t table = unicorn_read(cpu->cpu, NUMBER.X86_REG_CR3);
    int is_long = unicorn_read_msr(cpu->cpu, MSR_EFER) & EFER_LMA ? 1 : 0, pae = is_long || cr4 & CR4_PAE;
    unsigned bits = pae ? 9 : 10, bytes = pae ? 8 : 4, shift = is_long ? 39 : pae ? 30 : 22;
    *gpa = linear & UINT32_MAX;
    if (!(cr0 & CR0_PG))
        return 1;
    table &= pae && !is_long ? ~UINT64_C(31) & UINT32_MAX : FRAME; /* with PAE alone the first table has 32 bytes */
    if (!is_long)
        linear &= UINT32_MAX;
    for (;; shift -= bits) {
        uint64_t entry = entry_of(cpu, table, linear, shift, shift == 30 && !is_long ? 2 : bits, bytes);
        int can_be_large = shift == 21 || (shift == 30 && is_long) || (shift == 22 && cr4 & CR4_PSE);
        if (!entry)
            return 0;
        if (shift == 12 || (can_be_large && entry & PAGE_LARGE)) {
            uint64_t inside = (UINT64_C(1) << shift) - 1;
            *gpa = (entry & FRAME & ~inside) | (linear & inside);
            return 1;
        }
        table = entry & FRAME;
    }
}

/* Host address of a linear one, good for `in_page` bytes. */
void *emulated_linear(const emulated_cpu *cpu, uint64_t linear, uint64_t *in_page)
{
    uint64_t gpa;
    *in_page = PAGE_BYTES - linear % PAGE_BYTES;
    return physical(cpu, linear, &gpa) ? lk_memory_at(&cpu->vcpu->machine->memory, gpa, *in_page) : NULL;
}
