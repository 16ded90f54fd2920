/* The instructions C has no words for. */
#ifndef LABKIT_X86_H
#define LABKIT_X86_H

#include <stdbool.h>
#include <stdint.h>

#include "abi.h"

static inline void out8(uint16_t port, uint8_t value)
{
    __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port));
}
static inline void out16(uint16_t port, uint16_t value)
{
    __asm__ volatile("outw %0, %1" ::"a"(value), "Nd"(port));
}
static inline void out32(uint16_t port, uint32_t value)
{
    __asm__ volatile("outl %0, %1" ::"a"(value), "Nd"(port));
}

static inline uint8_t in8(uint16_t port)
{
    uint8_t value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline uint16_t in16(uint16_t port)
{
    uint16_t value;
    __asm__ volatile("inw %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline uint32_t in32(uint16_t port)
{
    uint32_t value;
    __asm__ volatile("inl %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static inline uint64_t rdtsc(void)
{
    uint32_t low, high;
    __asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
    return (uint64_t)high << 32 | low;
}

/* The TSC at which a wait gives up; 0 ticks: a few seconds on any machine. */
#define DEFAULT_TICKS UINT64_C(0x200000000)
#define TICKS_MAX (UINT64_C(1) << 62) /* a sum with the TSC cannot overflow */

static inline uint64_t deadline_after(uint64_t ticks)
{
    return rdtsc() + (!ticks ? DEFAULT_TICKS : ticks < TICKS_MAX ? ticks : TICKS_MAX);
}

static inline uint8_t load8(uint64_t gpa)
{
    return *(volatile uint8_t *)gpa;
}
static inline uint16_t load16(uint64_t gpa)
{
    return *(volatile uint16_t *)gpa;
}
static inline uint32_t load32(uint64_t gpa)
{
    return *(volatile uint32_t *)gpa;
}
static inline uint64_t load64(uint64_t gpa)
{
    return *(volatile uint64_t *)gpa;
}
static inline void store8(uint64_t gpa, uint8_t value)
{
    *(volatile uint8_t *)gpa = value;
}
static inline void store16(uint64_t gpa, uint16_t value)
{
    *(volatile uint16_t *)gpa = value;
}
static inline void store32(uint64_t gpa, uint32_t value)
{
    *(volatile uint32_t *)gpa = value;
}
static inline void store64(uint64_t gpa, uint64_t value)
{
    *(volatile uint64_t *)gpa = value;
}

static inline uint32_t lowest_bit(uint64_t bits)
{
    return (uint32_t)__builtin_ctzll(bits);
} /* not of 0 */

/* x86 keeps stores in order and loads in order: the compiler alone must be told. A load may pass an earlier store to
 * another place, though, and only a full barrier stops that. */
static inline void write_barrier(void)
{
    __asm__ volatile("" ::: "memory");
}
static inline void read_barrier(void)
{
    __asm__ volatile("" ::: "memory");
}
static inline void full_barrier(void)
{
    __asm__ volatile("mfence" ::: "memory");
}

/* Which vCPU is this? The one whose stack we are on. */
static inline uint32_t this_vcpu(void)
{
    uint64_t stack;
    __asm__ volatile("movq %%rsp, %0" : "=r"(stack));
    return (uint32_t)((stack - GPA_STACKS) >> STACK_SHIFT);
}

static inline void relax(void)
{
    __asm__ volatile("pause" ::: "memory");
}
static inline void interrupts_off(void)
{
    __asm__ volatile("cli" ::: "memory");
}

/* sti takes effect after the next instruction: an interrupt that is pending wakes the hlt, it cannot slip in between. */
static inline void halt_until_interrupt(void)
{
    __asm__ volatile("sti; hlt; cli" ::: "memory");
}

typedef volatile uint32_t spinlock;

static inline void spin_lock(spinlock *lock)
{
    while (__atomic_exchange_n(lock, 1, __ATOMIC_ACQUIRE))
        relax();
}

static inline void spin_unlock(spinlock *lock)
{
    __atomic_store_n(lock, 0, __ATOMIC_RELEASE);
}

#endif
