/* How does a notebook look behind the driver? Ports, config space and memory, as the guest sees them; and faults. */
#include "load.h"
#include "pci.h"
#include "steps.h"
#include "virtio_legacy.h"
#include "x86.h"

#define PORTS 0x10000
#define MAPPED_BYTES (UINT64_C(1) << 32) /* beyond it nothing is mapped */

static bool good_width(uint64_t width)
{
    return width == 1 || width == 2 || width == 4;
}

bool good_port(uint64_t port, uint64_t width)
{
    return good_width(width) && port <= PORTS - width;
}

/* Config space is read by naturally aligned pieces. */
static bool good_offset(uint64_t offset, uint64_t width)
{
    return good_width(width) && offset < PCI_CONFIG_BYTES && offset % width == 0;
}

static bool good_address(uint64_t gpa, uint64_t width)
{
    return (good_width(width) || width == 8) && gpa <= MAPPED_BYTES - width;
}

uint32_t port_in(const context *self, const uint64_t *a, uint64_t *r)
{
    (void)self;
    uint16_t port = (uint16_t)a[0];
    if (!good_port(a[0], a[1]))
        return AGENT_BAD_ARGUMENT;
    r[0] = a[1] == 1 ? in8(port) : a[1] == 2 ? in16(port) : in32(port);
    return AGENT_OK;
}

uint32_t port_out(const context *self, const uint64_t *a, uint64_t *r)
{
    (void)self, (void)r;
    if (!good_port(a[0], a[1]))
        return AGENT_BAD_ARGUMENT;
    kick_loop((uint16_t)a[0], (uint32_t)a[1], (uint32_t)a[2], 1);
    return AGENT_OK;
}

uint32_t config_read(const context *self, const uint64_t *a, uint64_t *r)
{
    (void)self;
    if (!good_offset(a[0], a[1]))
        return AGENT_BAD_ARGUMENT;
    if (!the_device.function && !(the_device.function = pci_find_virtio(&the_device.device_id)))
        return AGENT_NO_DEVICE;
    r[0] = pci_read(the_device.function, (uint32_t)a[0], (uint32_t)a[1]);
    return AGENT_OK;
}

uint32_t config_write(const context *self, const uint64_t *a, uint64_t *r)
{
    (void)self, (void)r;
    if (!good_offset(a[0], a[1]))
        return AGENT_BAD_ARGUMENT;
    if (!the_device.function && !(the_device.function = pci_find_virtio(&the_device.device_id)))
        return AGENT_NO_DEVICE;
    pci_write(the_device.function, (uint32_t)a[0], (uint32_t)a[1], (uint32_t)a[2]);
    return AGENT_OK;
}

uint32_t load(const context *self, const uint64_t *a, uint64_t *r)
{
    (void)self;
    if (!good_address(a[0], a[1]))
        return AGENT_BAD_ARGUMENT;
    r[0] = a[1] == 1 ? load8(a[0]) : a[1] == 2 ? load16(a[0]) : a[1] == 4 ? load32(a[0]) : load64(a[0]);
    return AGENT_OK;
}

uint32_t store(const context *self, const uint64_t *a, uint64_t *r)
{
    (void)self, (void)r;
    if (!good_address(a[0], a[1]))
        return AGENT_BAD_ARGUMENT;
    if (a[1] == 1)
        store8(a[0], (uint8_t)a[2]);
    else if (a[1] == 2)
        store16(a[0], (uint16_t)a[2]);
    else if (a[1] == 4)
        store32(a[0], (uint32_t)a[2]);
    else
        store64(a[0], a[2]);
    return AGENT_OK;
}

uint32_t fault(const context *self, const uint64_t *a, uint64_t *r)
{
    (void)self;
    switch (a[0]) {
    case FAULT_TRIPLE:
        __asm__ volatile("push $0; push $0; lidt (%rsp); ud2");
        return AGENT_OK;
    case FAULT_SPIN:
        for (;;)
            __asm__ volatile("");
    case FAULT_HALT:
        for (;;)
            __asm__ volatile("cli; hlt");
    case FAULT_NO_MEMORY:
        r[0] = load32(GPA_MSIX_BAR - PAGE_BYTES);
        return AGENT_OK;
    default:
        return AGENT_BAD_ARGUMENT;
    }
}
