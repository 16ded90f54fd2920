/* Interrupts: the local APIC, and one vector for the device; or the device's line. */
#ifndef LABKIT_IRQ_H
#define LABKIT_IRQ_H

#include <stdbool.h>
#include <stdint.h>

#define DEVICE_VECTOR 0x40

extern volatile uint64_t device_interrupts; /* counted on every vCPU that got one */

void irq_here(void);                  /* makes this vCPU take interrupts, the first time it is called there */
uint64_t irq_message(uint32_t vcpus); /* MSI address that reaches them */

/* Takes the level of an I/O APIC's pin as the device's interrupt, `isr` being the port that lowers it. False: there is
 * no I/O APIC, or no such pin. */
bool irq_line(uint32_t pin, uint16_t isr, uint32_t vcpus);

#endif
