/* Where is the device? Bus 0 is scanned for the first legacy virtio function. */
#include "pci.h"
#include "x86.h"

#define SLOTS 32
#define SLOT_SHIFT 11
#define LAST_LEGACY VIRTIO_DEVICE_NULL /* transitional ids: VIRTIO_DEVICE_NET to here */

static uint16_t select(uint32_t function, uint32_t offset)
{
    out32(PORT_PCI_ADDRESS, PCI_CONFIG_ENABLE | function | (offset & 0xfc));
    return (uint16_t)(PORT_PCI_DATA + (offset & 3));
}

uint32_t pci_read(uint32_t function, uint32_t offset, uint32_t width)
{
    uint16_t port = select(function, offset);
    return width == 1 ? in8(port) : width == 2 ? in16(port) : in32(port);
}

void pci_write(uint32_t function, uint32_t offset, uint32_t width, uint32_t value)
{
    uint16_t port = select(function, offset);
    if (width == 1)
        out8(port, (uint8_t)value);
    else if (width == 2)
        out16(port, (uint16_t)value);
    else
        out32(port, value);
}

uint32_t pci_find_virtio(uint16_t *device)
{
    for (uint32_t slot = 1; slot < SLOTS; slot++) { /* slot 0 is the host bridge */
        uint32_t id = pci_read(slot << SLOT_SHIFT, PCI_VENDOR_ID, 4);
        *device = (uint16_t)(id >> 16);
        if ((id & 0xffff) == VIRTIO_VENDOR && *device >= VIRTIO_DEVICE_NET && *device <= LAST_LEGACY)
            return slot << SLOT_SHIFT;
    }
    return 0;
}

uint32_t pci_find_capability(uint32_t function, uint8_t id, uint32_t *head)
{
    uint32_t at = pci_read(function, PCI_CAPABILITIES, 1);
    for (int left = PCI_CONFIG_BYTES / 4; at && left; left--) {
        *head = pci_read(function, at, 4);
        if ((*head & 0xff) == id)
            return at;
        at = *head >> 8 & 0xff;
    }
    *head = 0;
    return 0;
}
