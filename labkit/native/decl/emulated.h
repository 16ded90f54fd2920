/* Numbers of the Unicorn library, each under its own name there, without the "UC_". */
typedef struct {
    int ARCH_X86, MODE_64, PROT_ALL;
    int HOOK_CODE, HOOK_INSN, HOOK_INTR, HOOK_INSN_INVALID;
    int ERR_OK, ERR_INSN_INVALID;
    int CTL_UC_USE_EXITS, CTL_TB_FLUSH, CTL_IO_WRITE;
    int X86_INS_IN, X86_INS_OUT, X86_INS_CPUID, X86_INS_RDTSC, X86_INS_RDTSCP;
    int X86_REG_RAX, X86_REG_RBX, X86_REG_RCX, X86_REG_RDX, X86_REG_RSI, X86_REG_RDI, X86_REG_RSP, X86_REG_RBP;
    int X86_REG_R8, X86_REG_R9, X86_REG_R10, X86_REG_R11, X86_REG_R12, X86_REG_R13, X86_REG_R14, X86_REG_R15;
    int X86_REG_RIP, X86_REG_EFLAGS, X86_REG_CR0, X86_REG_CR2, X86_REG_CR3, X86_REG_CR4, X86_REG_MSR;
    int X86_REG_CS, X86_REG_DS, X86_REG_ES, X86_REG_FS, X86_REG_GS, X86_REG_SS;
    int X86_REG_GDTR, X86_REG_IDTR, X86_REG_TR;
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
