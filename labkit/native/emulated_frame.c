/* How does an emulated vCPU take an interrupt? The library does not: the frame is built on the guest's stack here, between
 * two instructions, and the guest's own gate says where it goes on. */
#include "emulated.h"

#define NUMBER unicorn.number

enum { FLAG_TF = 1 << 8, FLAG_IF = 1 << 9, FLAG_NT = 1 << 14, FLAG_RF = 1 << 16, FLAG_VM = 1 << 17 };
enum { GATE_INTERRUPT = 0xe, GATE_TRAP = 0xf, GATE_TYPE = 0x1f, GATE_PRESENT = 0x80 };
enum { CR0_PE = 1, EFER_LMA = 1 << 10 };
enum { EXCEPTION_PF = 14, EXCEPTION_AC = 17 };
#define MSR_EFER UINT32_C(0xc0000080)

typedef enum { REAL, PROTECTED, LONG } mode;

static const unsigned word_bytes[] = {2, 4, 8}; /* of a frame, in each mode */

/* Where a gate leads. */
typedef struct {
    uint64_t offset;
    uint16_t selector;
    uint8_t ist, type, present;
} gate;

static mode mode_of(const emulated_cpu *cpu)
{
    if (!(unicorn_read(cpu->cpu, NUMBER.X86_REG_CR0) & CR0_PE))
        return REAL;
    return unicorn_read_msr(cpu->cpu, MSR_EFER) & EFER_LMA ? LONG : PROTECTED;
}

/* Copies to or from the guest's linear addresses. 0, or -1 if one of them has no memory. */
static int copy(const emulated_cpu *cpu, uint64_t linear, void *plain, uint64_t bytes, int to_guest)
{
    for (uint8_t *at = plain; bytes;) {
        uint64_t part;
        uint8_t *host = emulated_linear(cpu, linear, &part);
        if (!host)
            return -1;
        part = part < bytes ? part : bytes;
        memcpy(to_guest ? host : at, to_guest ? at : host, part);
        linear += part;
        at += part;
        bytes -= part;
    }
    return 0;
}

/* -- the gate -------------------------------------------------------------------------------------------------------- */

static int read_gate(const emulated_cpu *cpu, mode in, unsigned vector, gate *out)
{
    const unsigned bytes = 2 * word_bytes[in];
    uc_table idt = {0};
    uint8_t raw[16] = {0};
    uint16_t low, middle, selector;
    uint32_t high;
    unicorn.reg_read(cpu->cpu, NUMBER.X86_REG_IDTR, &idt);
    if (vector * bytes + bytes - 1 > idt.limit || copy(cpu, idt.base + vector * bytes, raw, bytes, 0))
        return -1;
    memcpy(&low, raw, sizeof low);
    memcpy(&selector, raw + 2, sizeof selector);
    memcpy(&middle, raw + 6, sizeof middle);
    memcpy(&high, raw + 8, sizeof high);
    *out = (gate){.offset = low, .selector = selector, .type = GATE_INTERRUPT, .present = 1};
    if (in == REAL)
        return 0;
    out->offset |= (uint64_t)middle << 16 | (in == LONG ? (uint64_t)high << 32 : 0);
    out->ist = in == LONG ? raw[4] & 7 : 0;
    out->type = raw[5] & GATE_TYPE;
    out->present = raw[5] & GATE_PRESENT;
    return out->present && (out->type == GATE_INTERRUPT || out->type == GATE_TRAP) ? 0 : -1;
}

/* -- the frame ------------------------------------------------------------------------------------------------------- */

/* Where the frame goes, as a linear address. 0 or -1. */
static int find_stack(const emulated_cpu *cpu, mode in, const gate *to, uint64_t *rsp)
{
    enum { IST1 = 0x24 };
    uc_table task = {0};
    *rsp = unicorn_read(cpu->cpu, NUMBER.X86_REG_RSP);
    if (in == REAL)
        *rsp = (*rsp & 0xffff) + (unicorn_read(cpu->cpu, NUMBER.X86_REG_SS) << 4);
    if (in != LONG)
        return 0;
    unicorn.reg_read(cpu->cpu, NUMBER.X86_REG_TR, &task);
    int failed = to->ist && copy(cpu, task.base + IST1 + 8u * (to->ist - 1u), rsp, sizeof *rsp, 0);
    *rsp &= ~UINT64_C(15);
    return failed ? -1 : 0;
}

/* Words of the mode's width, the first one lowest in memory. 0 or -1. */
static int push_all(const emulated_cpu *cpu, mode in, uint64_t rsp, const uint64_t *words, unsigned count)
{
    const unsigned width = word_bytes[in];
    uint8_t raw[6 * sizeof *words];
    for (unsigned i = 0; i < count; i++)
        memcpy(raw + i * width, &words[i], width);
    return copy(cpu, rsp, raw, count * width, 1);
}

typedef enum { ENTERED, FAULTS, UNKNOWN } entered;

/* FAULTS: the guest's tables or stack do not allow it. UNKNOWN: this CPU cannot do that: a handler in another segment, so
 * in another ring, would have to be loaded by an instruction. Nothing of the CPU has changed then. */
static entered enter_gate(emulated_cpu *cpu, unsigned vector, int has_error, uint32_t error)
{
    mode in = mode_of(cpu);
    gate to;
    uint64_t rsp, flags = unicorn_read(cpu->cpu, NUMBER.X86_REG_EFLAGS);
    uint64_t cs = unicorn_read(cpu->cpu, NUMBER.X86_REG_CS) & UINT16_MAX;
    const uint64_t all[] = {error,
                            cpu->rip,
                            cs,
                            flags,
                            unicorn_read(cpu->cpu, NUMBER.X86_REG_RSP),
                            unicorn_read(cpu->cpu, NUMBER.X86_REG_SS) & UINT16_MAX};
    const uint64_t *words = has_error && in != REAL ? all : all + 1;
    unsigned count = (unsigned)(all + (in == LONG ? 6 : 4) - words);
    if (read_gate(cpu, in, vector, &to) || find_stack(cpu, in, &to, &rsp))
        return FAULTS;
    if (to.selector != cs)
        return UNKNOWN;
    rsp -= count * word_bytes[in];
    if (push_all(cpu, in, rsp, words, count))
        return FAULTS;
    uint64_t cleared = FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM | (to.type == GATE_INTERRUPT ? FLAG_IF : 0);
    unicorn_write(cpu->cpu, NUMBER.X86_REG_EFLAGS, flags & ~cleared);
    unicorn_write(cpu->cpu, NUMBER.X86_REG_RSP, in == REAL ? rsp & 0xffff : rsp);
    cpu->rip = to.offset;
    cpu->halted = 0;
    return ENTERED;
}

/* The instruction after STI, and after a load of SS, belongs to it. */
static int in_shadow(const emulated_cpu *cpu)
{
    enum { STI = 0xfb, POP_SS = 0x17, MOV_SS = 0x8e, SS_FIELD = 2 };
    uint64_t in_page;
    const uint8_t *code = emulated_linear(cpu, cpu->last, &in_page);
    if (!code || cpu->halted)
        return 0;
    int loads_ss = code[0] == MOV_SS && in_page > 1 && (code[1] >> 3 & 7) == SS_FIELD;
    return code[0] == STI || loads_ss || (code[0] == POP_SS && mode_of(cpu) != LONG);
}

/* Would an interrupt be taken before the next instruction? */
int emulated_may_interrupt(const emulated_cpu *cpu)
{
    return unicorn_read(cpu->cpu, NUMBER.X86_REG_EFLAGS) & FLAG_IF && !in_shadow(cpu);
}

/* Those with an error code: #DF, #TS, #NP, #SS, #GP, #PF, #AC. */
static int has_error_code(unsigned vector)
{
    return vector == EXCEPTION_DF || (vector >= 10 && vector <= EXCEPTION_PF) || vector == EXCEPTION_AC;
}

/* One that cannot be delivered is a double fault, and that one a triple fault. 0 or CRASH_*. */
static int deliver(emulated_cpu *cpu, unsigned vector, uint32_t error)
{
    entered how = enter_gate(cpu, vector, has_error_code(vector), error);
    if (how == FAULTS)
        how = enter_gate(cpu, EXCEPTION_DF, 1, 0);
    return how == ENTERED ? 0 : how == UNKNOWN ? CRASH_CANNOT_EXECUTE : CRASH_TRIPLE_FAULT;
}

int emulated_interrupt(emulated_cpu *cpu, int vector)
{
    cpu->counts.irq_injections++;
    entered how = enter_gate(cpu, (unsigned)vector, 0, 0);
    if (how == FAULTS)
        return deliver(cpu, EXCEPTION_GP, 0);
    return how == ENTERED ? 0 : CRASH_CANNOT_EXECUTE;
}

/* What the last instruction raised. */
int emulated_exception(emulated_cpu *cpu, int vector)
{
    return deliver(cpu, (unsigned)vector, unicorn_take_error_code(cpu->cpu));
}
