/* Interrupts: the local APIC, and one vector for the device. */
#ifndef LABKIT_IRQ_H
#define LABKIT_IRQ_H

#include <stdint.h>

#define DEVICE_VECTOR 0x40

extern volatile uint64_t device_interrupts; /* counted on every vCPU that got one */

void irq_here(void);                  /* makes this vCPU take interrupts, the first time it is called there */
uint64_t irq_message(uint32_t vcpus); /* MSI address that reaches them */

#endif
