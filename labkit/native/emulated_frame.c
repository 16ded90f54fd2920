/* How does an emulated vCPU take an interrupt? The library does not: the frame is built on the guest's stack here, between
 * two instructions, and the guest's own gate says where it goes on. */
#include "emulated.h"

#define NUMBER unicorn.number

enum { FLAG_TF = 1 << 8, FLAG_IF = 1 << 9, FLAG_NT = 1 << 14, FLAG_RF = 1 << 16, FLAG_VM = 1 << 17 };
enum { GATE_INTERRUPT = 0xe, GATE_TRAP = 0xf, GATE_TYPE = 0x1f, GATE_PRESENT = 0x80 };
enum { CR0_PE = 1, EFER_LMA = 1 << 10, RING = 3 };
enum { EXCEPTION_PF = 14, EXCEPTION_AC = 17 };
#define MSR_EFER UINT32_C(0xc0000080)

typedef enum { REAL, PROTECTED, LONG } mode;

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
    const unsigned bytes = in == LONG ? 16 : in == PROTECTED ? 8 : 4;
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

/* -- the stack ------------------------------------------------------------------------------------------------------- */

/* Where the frame goes. A change of ring takes the stack from the task's segment. 0 or -1. */
static int find_stack(const emulated_cpu *cpu, mode in, const gate *to, int new_ring, uint64_t *rsp, uint16_t *ss)
{
    enum { RSP0 = 4, IST1 = 0x24, ESP0 = 4, SS0 = 8 };
    uc_table task = {0};
    unicorn.reg_read(cpu->cpu, NUMBER.X86_REG_TR, &task);
    *rsp = unicorn_read(cpu->cpu, NUMBER.X86_REG_RSP);
    *ss = (uint16_t)unicorn_read(cpu->cpu, NUMBER.X86_REG_SS);
    if (in == REAL) {
        *rsp = (*rsp & 0xffff) + ((uint64_t)*ss << 4);
        return 0;
    }
    if (in == PROTECTED) {
        uint32_t esp0 = (uint32_t)*rsp;
        int failed = new_ring && (copy(cpu, task.base + ESP0, &esp0, sizeof esp0, 0) ||
                                  copy(cpu, task.base + SS0, ss, sizeof *ss, 0));
        *rsp = esp0;
        return failed ? -1 : 0;
    }
    if (new_ring)
        *ss = 0;
    if ((to->ist && copy(cpu, task.base + IST1 + 8u * (to->ist - 1u), rsp, sizeof *rsp, 0)) ||
        (!to->ist && new_ring && copy(cpu, task.base + RSP0, rsp, sizeof *rsp, 0)))
        return -1;
    *rsp &= ~UINT64_C(15);
    return 0;
}

/* Words of the mode's width, the first one lowest in memory. 0 or -1. */
static int push_all(const emulated_cpu *cpu, mode in, uint64_t *rsp, const uint64_t *words, unsigned count)
{
    const unsigned width = in == LONG ? 8 : in == PROTECTED ? 4 : 2;
    uint8_t raw[8 * 8];
    for (unsigned i = 0; i < count; i++)
        memcpy(raw + i * width, &words[i], width);
    *rsp -= count * width;
    return copy(cpu, *rsp, raw, count * width, 1);
}

/* -- segments -------------------------------------------------------------------------------------------------------- */

/* The library lets nobody load a segment of a ring closer to the middle: it is asked in real mode, where rings are
 * unknown, and taken back into protected mode. */
static void enter_ring_0(const emulated_cpu *cpu)
{
    uint64_t cr0 = unicorn_read(cpu->cpu, NUMBER.X86_REG_CR0), cr2 = unicorn_read(cpu->cpu, NUMBER.X86_REG_CR2);
    const uint64_t paging = UINT64_C(0x80000000);
    unicorn_write(cpu->cpu, NUMBER.X86_REG_CR0, cr0 & ~(paging | CR0_PE));
    unicorn_write(cpu->cpu, NUMBER.X86_REG_SS, 0);
    unicorn_write(cpu->cpu, NUMBER.X86_REG_CR0, cr0);
    unicorn_write(cpu->cpu, NUMBER.X86_REG_CR2, cr2);
}

/* 0 or -1. */
static int load_segments(const emulated_cpu *cpu, mode in, const gate *to, int new_ring, uint16_t ss)
{
    uint16_t now = (uint16_t)unicorn_read(cpu->cpu, NUMBER.X86_REG_CS);
    if (new_ring)
        enter_ring_0(cpu);
    if ((new_ring || in == REAL || to->selector != now) && unicorn_write(cpu->cpu, NUMBER.X86_REG_CS, to->selector))
        return -1;
    return new_ring && unicorn_write(cpu->cpu, NUMBER.X86_REG_SS, ss) ? -1 : 0;
}

/* -- the frame ------------------------------------------------------------------------------------------------------- */

/* 0, or -1 if the guest's tables or stack do not allow it; then nothing of the CPU has changed. */
static int enter_gate(emulated_cpu *cpu, unsigned vector, int has_error, uint32_t error)
{
    mode in = mode_of(cpu);
    gate to;
    uint64_t rsp, flags = unicorn_read(cpu->cpu, NUMBER.X86_REG_EFLAGS), old_rsp = unicorn_read(cpu->cpu, NUMBER.X86_REG_RSP);
    uint16_t ss, old_ss = (uint16_t)unicorn_read(cpu->cpu, NUMBER.X86_REG_SS), cs = (uint16_t)unicorn_read(cpu->cpu, NUMBER.X86_REG_CS);
    if (read_gate(cpu, in, vector, &to))
        return -1;
    int new_ring = in != REAL && (cs & RING) > (to.selector & RING);
    if (find_stack(cpu, in, &to, new_ring, &rsp, &ss))
        return -1;
    const uint64_t words[] = {error, cpu->rip, cs, flags, old_rsp, old_ss};
    const unsigned first = has_error && in != REAL ? 0 : 1, last = in == LONG || new_ring ? 6 : 4;
    if (push_all(cpu, in, &rsp, words + first, last - first) || load_segments(cpu, in, &to, new_ring, ss))
        return -1;
    uint64_t cleared = FLAG_TF | FLAG_NT | FLAG_RF | FLAG_VM | (to.type == GATE_INTERRUPT ? FLAG_IF : 0);
    unicorn_write(cpu->cpu, NUMBER.X86_REG_EFLAGS, flags & ~cleared);
    unicorn_write(cpu->cpu, NUMBER.X86_REG_RSP, in == REAL ? rsp - ((uint64_t)ss << 4) : rsp);
    unicorn_write(cpu->cpu, NUMBER.X86_REG_RIP, to.offset);
    cpu->rip = to.offset;
    cpu->halted = 0;
    return 0;
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

int emulated_interrupt(emulated_cpu *cpu, int vector)
{
    cpu->counts.irq_injections++;
    return enter_gate(cpu, (unsigned)vector, 0, 0) ? emulated_exception(cpu, EXCEPTION_GP) : 0;
}

/* Those with an error code: #DF, #TS, #NP, #SS, #GP, #PF, #AC. */
static int has_error_code(int vector)
{
    return vector == EXCEPTION_DF || (vector >= 10 && vector <= EXCEPTION_PF) || vector == EXCEPTION_AC;
}

/* What the last instruction raised. One that cannot be delivered is a double fault, and that one a triple fault: -1. */
int emulated_exception(emulated_cpu *cpu, int vector)
{
    uint32_t error = unicorn_take_error_code(cpu->cpu);
    if (!enter_gate(cpu, (unsigned)vector, has_error_code(vector), error))
        return 0;
    return enter_gate(cpu, EXCEPTION_DF, 1, 0);
}
