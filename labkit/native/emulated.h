/* An emulated CPU: instructions by Unicorn, everything else by us. One thread executes all its vCPUs in turns.
 *
 *   emulated.c        whose turn is it, and when does the thread sleep?
 *   emulated_turn.c   one turn: what was asked of it, instructions, what they left behind
 *   emulated_io.c     what leaves the guest: ports, MMIO, ioeventfds
 *   emulated_cpu.c    registers: how a guest begins, what it is told of its CPU
 *   emulated_frame.c  interrupts and exceptions: the frame on the guest's stack
 *   emulated_state.c  what a vCPU is, as numbers: out of it and into another
 *   emulated_bare.c   floors of the bench: the library and next to nothing around it
 */
#ifndef LABKIT_EMULATED_H
#define LABKIT_EMULATED_H

#include "unicorn.h"
#include "vcpu.h"

#define NO_EXCEPTION -1
#define EXCEPTION_DF 8

typedef struct {
    uint64_t address;
    uint32_t data;
} message;

typedef struct {
    lk_emulated *emulated;
    lk_vcpu *vcpu;
    uc_engine *cpu;
    uc_context *protected_mode, *long_mode, *real_mode; /* the states that a guest can begin in */
    uint32_t left; /* instructions of its turn */
    int stopping; /* its turn ends before the next instruction: the library is told there, not in the middle of one */
    int exception; /* raised by the last instruction; NO_EXCEPTION */
    int parks; /* its turn ended where the guest reads PORT_PARK, an instruction at at_port */
    uint64_t at_port;
    int interrupted; /* an interrupt waits for the guest to allow it */
    unsigned since_short; /* instructions since one that could allow it, by its length */
    int halted, waits_for_sipi;
    uint64_t rip; /* as the CPU has it between two turns */
    uint64_t last; /* linear address of the instruction executed last */
    lk_emulated_counts counts;
} emulated_cpu;

typedef struct {
    uint64_t address, value;
    uint32_t length;
    int any, fd, id; /* any: of its values; fd is our own; id: which eventfd it is */
    int blocks; /* a write to it may: at its limit, unless it is O_NONBLOCK */
} ioeventfd;

struct lk_emulated {
    lk_machine *machine;
    unsigned vcpus;
    uint32_t quantum;
    emulated_cpu cpus[VCPUS_MAX];
    lk_irqchip *chip;
    int epoll_fd, wake_fd, woken;
    uint32_t messages_seen; /* of the machine's */
    void *python; /* whom lk_python_exit calls back */
    uint64_t born_ns, executed, slept_ns; /* its clocks */
    uint32_t lines, lines_seen; /* levels: as set by whichever thread, as told to the chip */
    pthread_mutex_t mutex; /* for what follows; nothing is taken under it */
    pthread_cond_t changed;
    int hold, held; /* somebody wants it to stand still; it does */
    message messages[MSIX_VECTORS_MAX];
    ioeventfd kicks[IOEVENTFDS_MAX];
    unsigned kick_count;
};

uint64_t emulated_timer_ns(const lk_emulated *emulated);
uint64_t emulated_tsc(const lk_emulated *emulated);
void emulated_wake(lk_emulated *emulated);
void emulated_listen(lk_emulated *emulated, int timeout_ms);

typedef enum { RUNS, RESTS, QUITS } turn;
turn emulated_turn(emulated_cpu *cpu, int *executed);
int emulated_has_news(const emulated_cpu *cpu); /* of what its thread looks at between two parts of a turn */
const lk_vcpu_ops *emulated_ops(void);

int emulated_io_set_up(emulated_cpu *cpu); /* hooks; 0 or -errno */
void emulated_hand_up(emulated_cpu *cpu); /* vcpu->exit, to Python */

int emulated_cpu_set_up(emulated_cpu *cpu); /* 0 or -errno; guest memory is mapped after that */
void emulated_cpu_free(emulated_cpu *cpu);
void emulated_enter(emulated_cpu *cpu, const lk_entry *entry); /* its registers, and nothing else */
void emulated_write_registers(emulated_cpu *cpu, const lk_registers *registers); /* the general ones, RIP, RFLAGS */
int emulated_load(emulated_cpu *cpu); /* what lk_vcpu_load left; 0 or -errno */
void emulated_start_up(emulated_cpu *cpu, uint8_t sipi_vector);
void *emulated_linear(const emulated_cpu *cpu, uint64_t linear, uint64_t *in_page); /* NULL: nothing is mapped there */

int emulated_may_interrupt(const emulated_cpu *cpu);
int emulated_interrupt(emulated_cpu *cpu, int vector); /* 0, or CRASH_* */
int emulated_exception(emulated_cpu *cpu, int vector);

#endif
