/* What is an emulated vCPU, between two turns? Numbers, taken out of the library register by register.
 *
 * The library can save all of a CPU as bytes, but among them are host addresses, and indices that it does not check: such
 * bytes are never taken from outside. Here a state begins as one of the three that were kept at the start, and gets the
 * registers that a guest could have given it. The hidden parts of the segment registers have no other door than the saved
 * context: they are read and changed there, and only there. */
#include "emulated.h"

#define NUMBER unicorn.number

enum { FLAG_FIXED = 1 << 1, FLAG_VM = 1 << 17, FLAGS_KNOWN = 0x3f7fd7 };
enum { CR0_PE = 1, CR0_KNOWN_LOW = 0x5003f, CR4_PAE = 1 << 5, CR4_KNOWN = 0x3507ff, CR8_MAX = 15 };
enum { EFER_SCE = 1, EFER_LME = 1 << 8, EFER_LMA = 1 << 10, EFER_NXE = 1 << 11 };
enum { IS_64 = 1 << 21, IS_32 = 1 << 22, IS_PRESENT = 1 << 15, RING = 3 }; /* of a segment's flags; of its selector */
enum { GDTR, IDTR, TR, LDTR };
enum { FP_HALF = 0xffff }; /* of the upper half of an x87 register */
#define CR0_PG UINT64_C(0x80000000)
#define CR0_KNOWN (UINT64_C(0xe0000000) | CR0_KNOWN_LOW)
#define MSR_EFER UINT32_C(0xc0000080)
#define EFER_KNOWN (EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE)

/* SYSENTER's three, PAT, STAR, LSTAR, CSTAR, SFMASK, KERNEL_GS_BASE. */
static const uint32_t msrs[STATE_MSRS] = {0x174,      0x175,      0x176,      0x277,     0xc0000081,
                                          0xc0000082, 0xc0000083, 0xc0000084, 0xc0000102};

/* -- is it one? ---------------------------------------------------------------------------------------------------- */

typedef enum { NO_MODE, REAL_MODE, PROTECTED_MODE, LONG_MODE } mode;

static int is_flat_32(const lk_segment *segments)
{
    const lk_segment *ss = &segments[SEGMENT_SS];
    return segments[SEGMENT_CS].flags & IS_32 && ss->flags & IS_32 && !ss->base && !segments[SEGMENT_DS].base &&
           !segments[SEGMENT_ES].base;
}

/* What the library has worked out of segments and control registers must fit them; so only those that it had worked out
 * at the start: real mode, flat protected mode, 64-bit mode. Ring 0. */
static mode mode_of(const lk_emulated_state *state)
{
    const lk_segment *cs = &state->segments[SEGMENT_CS], *ss = &state->segments[SEGMENT_SS];
    int pages = (state->cr0 & CR0_PG) != 0, is_long = (state->efer & EFER_LMA) != 0;
    if (!(state->cr0 & CR0_PE))
        return pages || is_long || (cs->flags | ss->flags) & (IS_32 | IS_64) ? NO_MODE : REAL_MODE;
    if ((cs->selector | ss->selector) & RING || !(cs->flags & IS_PRESENT) ||
        is_long != (pages && state->efer & EFER_LME))
        return NO_MODE;
    if (is_long)
        return state->cr4 & CR4_PAE && cs->flags & IS_64 && !(cs->flags & IS_32) ? LONG_MODE : NO_MODE;
    return is_flat_32(state->segments) ? PROTECTED_MODE : NO_MODE;
}

static int fits(const lk_segment *segment)
{
    return segment->selector <= UINT16_MAX && segment->limit <= UINT32_MAX && segment->flags <= UINT32_MAX;
}

/* 0; -EINVAL: numbers that no register holds; -ENOTSUP: a mode that cannot be loaded. */
int lk_emulated_check_vcpu(const lk_emulated_state *state)
{
    uint64_t wrong = (state->cr0 & ~CR0_KNOWN) | (state->cr4 & ~(uint64_t)CR4_KNOWN) |
                     (state->efer & ~(uint64_t)EFER_KNOWN) | state->registers.rflags >> 32 | state->halted >> 1 |
                     state->waits_for_sipi >> 1 | state->fp_control >> 16 | state->fp_status >> 16 |
                     state->fp_tags >> 16 | state->mxcsr >> 16;
    int right = !wrong && state->cr8 <= CR8_MAX && !(state->registers.rflags & (FLAG_VM | ~(uint64_t)FLAGS_KNOWN));
    for (int i = 0; i < STATE_SEGMENTS; i++)
        right &= fits(&state->segments[i]);
    for (int i = 0; i < STATE_TABLES; i++)
        right &= fits(&state->tables[i]);
    for (int i = 0; i < STATE_FP; i++)
        right &= state->fp[i][1] <= FP_HALF;
    return !right ? -EINVAL : mode_of(state) == NO_MODE ? -ENOTSUP : 0;
}

/* -- registers that the library shows ------------------------------------------------------------------------------ */

typedef struct {
    int which;
    uint64_t *value;
} place;

enum { PLAIN = 8 };

/* Control registers last: with them the mode changes. */
static void plain_registers(lk_emulated_state *state, place out[PLAIN])
{
    const place all[PLAIN] = {
        {NUMBER.X86_REG_FPCW, &state->fp_control}, {NUMBER.X86_REG_FPSW, &state->fp_status},
        {NUMBER.X86_REG_FPTAG, &state->fp_tags},   {NUMBER.X86_REG_MXCSR, &state->mxcsr},
        {NUMBER.X86_REG_CR2, &state->cr2},         {NUMBER.X86_REG_CR8, &state->cr8},
        {NUMBER.X86_REG_CR4, &state->cr4},         {NUMBER.X86_REG_CR3, &state->cr3},
    };
    memcpy(out, all, sizeof all);
}

static int table_number(int table)
{
    const int all[STATE_TABLES] = {NUMBER.X86_REG_GDTR, NUMBER.X86_REG_IDTR, NUMBER.X86_REG_TR, NUMBER.X86_REG_LDTR};
    return all[table];
}

static int xmm_number(int i)
{
    return i < STATE_XMM / 2 ? NUMBER.X86_REG_XMM0 + i : NUMBER.X86_REG_XMM8 + i - STATE_XMM / 2;
}

static void read_shown(uc_engine *cpu, lk_emulated_state *out)
{
    place plain[PLAIN];
    plain_registers(out, plain);
    for (int i = 0; i < PLAIN; i++)
        *plain[i].value = unicorn_read(cpu, plain[i].which);
    out->cr0 = unicorn_read(cpu, NUMBER.X86_REG_CR0);
    out->efer = unicorn_read_msr(cpu, MSR_EFER);
    for (int i = 0; i < STATE_MSRS; i++)
        out->msrs[i] = unicorn_read_msr(cpu, msrs[i]);
    for (int i = 0; i < STATE_TABLES; i++) {
        uc_table table = {0};
        unicorn.reg_read(cpu, table_number(i), &table);
        out->tables[i] = (lk_segment){table.selector, table.base, table.limit, table.flags};
    }
    for (int i = 0; i < STATE_FP; i++)
        unicorn.reg_read(cpu, NUMBER.X86_REG_FP0 + i, out->fp[i]);
    for (int i = 0; i < STATE_XMM; i++)
        unicorn.reg_read(cpu, xmm_number(i), out->xmm[i]);
}

static void write_shown(uc_engine *cpu, const lk_emulated_state *state)
{
    lk_emulated_state copy = *state;
    place plain[PLAIN];
    plain_registers(&copy, plain);
    for (int i = 0; i < PLAIN; i++)
        unicorn_write(cpu, plain[i].which, *plain[i].value);
    unicorn_write_msr(cpu, MSR_EFER, state->efer);
    unicorn_write(cpu, NUMBER.X86_REG_CR0, state->cr0);
    for (int i = 0; i < STATE_MSRS; i++)
        unicorn_write_msr(cpu, msrs[i], state->msrs[i]);
    for (int i = 0; i < STATE_TABLES; i++) {
        const lk_segment *from = &state->tables[i];
        uc_table table = {(uint16_t)from->selector, from->base, (uint32_t)from->limit, (uint32_t)from->flags};
        unicorn.reg_write(cpu, table_number(i), &table);
    }
    for (int i = 0; i < STATE_FP; i++)
        unicorn.reg_write(cpu, NUMBER.X86_REG_FP0 + i, state->fp[i]);
    for (int i = 0; i < STATE_XMM; i++)
        unicorn.reg_write(cpu, xmm_number(i), state->xmm[i]);
}

/* -- and those that it hides --------------------------------------------------------------------------------------- */

/* Segment registers out of the CPU, or into it. 0, -ENOMEM or -ENOSYS. */
static int move_segments(emulated_cpu *cpu, lk_segment *plain, int into_cpu)
{
    uc_context *context;
    if (unicorn.context_alloc(cpu->cpu, &context))
        return -ENOMEM;
    unicorn.context_save(cpu->cpu, context);
    uc_segment *hidden = unicorn_segments(cpu->cpu, cpu->protected_mode, context);
    for (int i = 0; hidden && i < STATE_SEGMENTS; i++)
        if (into_cpu)
            hidden[i] = (uc_segment){(uint32_t)plain[i].selector, plain[i].base, (uint32_t)plain[i].limit,
                                     (uint32_t)plain[i].flags};
        else
            plain[i] = (lk_segment){hidden[i].selector, hidden[i].base, hidden[i].limit, hidden[i].flags};
    if (hidden && into_cpu)
        unicorn.context_restore(cpu->cpu, context);
    unicorn.context_free(context);
    return hidden ? 0 : -ENOSYS;
}

/* -- the whole ----------------------------------------------------------------------------------------------------- */

int lk_emulated_save_vcpu(lk_emulated *emulated, unsigned index, lk_emulated_state *out)
{
    emulated_cpu *cpu = &emulated->cpus[index % VCPUS_MAX];
    *out = (lk_emulated_state){0};
    lk_emulated_registers(emulated, index, &out->registers);
    read_shown(cpu->cpu, out);
    out->last = cpu->last;
    out->halted = cpu->halted != 0;
    out->waits_for_sipi = cpu->waits_for_sipi != 0;
    int failed = move_segments(cpu, out->segments, 0);
    return failed ? failed : lk_emulated_check_vcpu(out);
}

int lk_emulated_load_vcpu(lk_emulated *emulated, unsigned index, const lk_emulated_state *state)
{
    emulated_cpu *cpu = &emulated->cpus[index % VCPUS_MAX];
    uc_context *const kept[] = {NULL, cpu->real_mode, cpu->protected_mode, cpu->long_mode};
    lk_emulated_state copy = *state;
    int failed = lk_emulated_check_vcpu(state);
    if (failed)
        return failed;
    unicorn.context_restore(cpu->cpu, kept[mode_of(state)]);
    write_shown(cpu->cpu, state);
    failed = move_segments(cpu, copy.segments, 1);
    emulated_write_registers(cpu, &state->registers);
    unicorn_forget_memory(cpu->cpu);
    cpu->last = state->last;
    cpu->halted = (int)state->halted;
    cpu->waits_for_sipi = (int)state->waits_for_sipi;
    cpu->exception = NO_EXCEPTION;
    cpu->interrupted = cpu->parks = 0;
    pthread_mutex_lock(&cpu->vcpu->sync->mutex);
    cpu->vcpu->sync->resting = 0; /* a guest that was parked reads the port again */
    pthread_mutex_unlock(&cpu->vcpu->sync->mutex);
    return failed;
}

uint64_t lk_emulated_irqchip_bytes(void)
{
    return lk_irqchip_bytes();
}

void lk_emulated_save_irqchip(const lk_emulated *emulated, void *out)
{
    lk_irqchip_save(emulated->chip, out);
}

void lk_emulated_load_irqchip(lk_emulated *emulated, const void *state)
{
    lk_irqchip_load(emulated->chip, state);
}
