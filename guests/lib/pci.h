/* Config space by mechanism #1. A function is named by its config address. */
#ifndef LABKIT_PCI_H
#define LABKIT_PCI_H

#include <stdint.h>

uint32_t pci_read(uint32_t function, uint32_t offset, uint32_t width);
void pci_write(uint32_t function, uint32_t offset, uint32_t width, uint32_t value);
uint32_t pci_find_virtio(uint16_t *device); /* 0: none on bus 0; device: its device id */

/* Its offset, 0: none. head: its first 32 bits, id and next in the low half. */
uint32_t pci_find_capability(uint32_t function, uint8_t id, uint32_t *head);

#endif
