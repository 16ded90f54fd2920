/* Numbers of the Unicorn library, each under its own name there, without the "UC_". */
typedef struct {
    int ARCH_X86, MODE_64, PROT_ALL;
    int HOOK_CODE, HOOK_INSN, HOOK_INTR, HOOK_INSN_INVALID;
    int ERR_OK, ERR_INSN_INVALID;
    int CTL_UC_USE_EXITS, CTL_TB_FLUSH, CTL_TLB_FLUSH, CTL_IO_WRITE;
    int X86_INS_IN, X86_INS_OUT, X86_INS_CPUID, X86_INS_RDTSC, X86_INS_RDTSCP;
    int X86_REG_RAX, X86_REG_RBX, X86_REG_RCX, X86_REG_RDX, X86_REG_RSI, X86_REG_RDI, X86_REG_RSP, X86_REG_RBP;
    int X86_REG_R8, X86_REG_R9, X86_REG_R10, X86_REG_R11, X86_REG_R12, X86_REG_R13, X86_REG_R14, X86_REG_R15;
    int X86_REG_RIP, X86_REG_EFLAGS, X86_REG_CR0, X86_REG_CR2, X86_REG_CR3, X86_REG_CR4, X86_REG_CR8, X86_REG_MSR;
    int X86_REG_CS, X86_REG_DS, X86_REG_ES, X86_REG_FS, X86_REG_GS, X86_REG_SS;
    int X86_REG_GDTR, X86_REG_IDTR, X86_REG_TR, X86_REG_LDTR;
    int X86_REG_FPCW, X86_REG_FPSW, X86_REG_FPTAG, X86_REG_MXCSR, X86_REG_FP0, X86_REG_XMM0, X86_REG_XMM8;
} lk_unicorn_numbers;

typedef struct {
    uint64_t rax, rbx, rcx, rdx, rsi, rdi, rsp, rbp, r8, r9, r10, r11, r12, r13, r14, r15, rip, rflags;
} lk_registers;

/* How a guest begins: what lk_vcpu_load gets as the state of LOAD_ENTRY. Segments are flat. */
typedef struct {
    lk_registers registers;
    uint64_t cr0, cr3, cr4, efer;
    uint8_t long_mode, waits_for_sipi;
} lk_entry;

#define LOAD_ENTRY 1

/* What a vCPU is between two turns. Numbers alone, so that any 64 bits can be looked at before they are believed. */
#define STATE_SEGMENTS 6
#define STATE_TABLES 4
#define STATE_MSRS 9
#define STATE_FP 8
#define STATE_XMM 16

typedef struct {
    uint64_t selector, base, limit, flags; /* flags: the upper half of a descriptor, without its base and limit */
} lk_segment;

typedef struct {
    lk_registers registers;
    uint64_t cr0, cr2, cr3, cr4, cr8, efer;
    lk_segment segments[STATE_SEGMENTS]; /* ES CS SS DS FS GS, their hidden parts too */
    lk_segment tables[STATE_TABLES]; /* GDTR IDTR TR LDTR */
    uint64_t msrs[STATE_MSRS];
    uint64_t fp_control, fp_status, fp_tags, mxcsr;
    uint64_t fp[STATE_FP][2], xmm[STATE_XMM][2]; /* low half first */
    uint64_t last, halted, waits_for_sipi; /* address of the instruction executed last; does it wait, and for what? */
} lk_emulated_state;

typedef struct {
    uint64_t tsc_ns, executed, slept_ns;
    uint64_t lines; /* levels that the interrupt controllers were told */
} lk_emulated_clocks;

typedef struct {
    uint64_t instructions, exits, io_exits, mmio_exits, halt_exits, irq_injections, signal_kicks;
} lk_emulated_counts;

/* An ioeventfd, by the kernel's own words for one. */
#define IOEVENTFD_DATAMATCH 1
#define IOEVENTFD_PIO 2
#define IOEVENTFD_DEASSIGN 4
#define IOEVENTFDS_MAX 1000

/* Emulated vCPUs, all executed by one thread, in turns of `quantum` instructions. */
typedef struct lk_emulated lk_emulated;

int lk_unicorn_load(const char *path, const lk_unicorn_numbers *numbers);
lk_emulated *lk_emulated_new(lk_machine *machine, unsigned vcpus, int full_irqchip, uint32_t quantum);
void lk_emulated_free(lk_emulated *emulated);
lk_vcpu *lk_emulated_vcpu(lk_emulated *emulated, unsigned index);
void lk_emulated_run(lk_emulated *emulated, void *python);
int lk_emulated_hold(lk_emulated *emulated, int timeout_ms);
void lk_emulated_let_go(lk_emulated *emulated);

void lk_emulated_power_on(lk_emulated *emulated);
void lk_emulated_registers(lk_emulated *emulated, unsigned index, lk_registers *out);
void lk_emulated_counts_of(const lk_emulated *emulated, unsigned index, lk_emulated_counts *out);
int lk_emulated_ioeventfd(lk_emulated *emulated, uint64_t address, uint32_t length, uint64_t value, int fd,
                          uint32_t flags);
int lk_emulated_bind(lk_emulated *emulated, unsigned vector, int fd);
int lk_emulated_route(lk_emulated *emulated, unsigned count, const uint64_t *addresses, const uint32_t *data);

/* Between hold and let_go, the vCPUs stopped. -EINVAL: nobody was ever in such a state; -ENOTSUP: in a mode that cannot be
 * loaded again; -ENOSYS: a library that hides its segments elsewhere. Nothing was changed then. */
int lk_emulated_save_vcpu(lk_emulated *emulated, unsigned index, lk_emulated_state *out);
int lk_emulated_check_vcpu(const lk_emulated_state *state);
int lk_emulated_load_vcpu(lk_emulated *emulated, unsigned index, const lk_emulated_state *state);
void lk_emulated_save_clocks(lk_emulated *emulated, lk_emulated_clocks *out);
void lk_emulated_load_clocks(lk_emulated *emulated, const lk_emulated_clocks *clocks);
uint64_t lk_emulated_irqchip_bytes(void);
void lk_emulated_save_irqchip(const lk_emulated *emulated, void *out);
void lk_emulated_load_irqchip(lk_emulated *emulated, const void *state);
