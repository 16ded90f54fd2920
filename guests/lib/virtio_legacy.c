/* How is a legacy virtio-pci device brought up? In the order of the specification, a paragraph a step. */
#include "virtio_legacy.h"
#include "irq.h"
#include "pci.h"
#include "x86.h"

virtio_device the_device;

static uint16_t reg(const virtio_device *v, uint16_t offset)
{
    return v->bar0 + offset;
}

uint8_t virtio_status(const virtio_device *v)
{
    return in8(reg(v, REG_STATUS));
}

uint8_t virtio_set_status(virtio_device *v, uint8_t status)
{
    out8(reg(v, REG_STATUS), status);
    return virtio_status(v);
}

void virtio_kick(const virtio_device *v, uint16_t queue)
{
    out16(reg(v, REG_QUEUE_NOTIFY), queue);
}

/* Device config follows the registers, and MSI-X brings two registers more. */
uint64_t virtio_capacity(const virtio_device *v)
{
    uint16_t at = reg(v, v->irq == IRQ_MSIX ? REG_CONFIG_MSIX : REG_CONFIG_NO_MSIX);
    return in32(at) | (uint64_t)in32(at + 4) << 32;
}

/* The device must answer at its ports and be allowed to read our memory. */
static bool find(virtio_device *v)
{
    v->function = pci_find_virtio(&v->device_id);
    if (!v->function)
        return false;
    pci_write(v->function, PCI_COMMAND, 2, PCI_COMMAND_IO | PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    v->bar0 = (uint16_t)(pci_read(v->function, PCI_BAR0, 4) & ~3u);
    return v->bar0 != 0;
}

static void set_vector(uint64_t entry, uint64_t address)
{
    store64(entry + MSIX_ENTRY_ADDRESS, address);
    store64(entry + MSIX_ENTRY_DATA, DEVICE_VECTOR); /* and a control word of 0: not masked */
}

/* Vector 0 for config changes, the others for queues. Off first, or the table is live while it is written. */
static bool msix_setup(virtio_device *v, uint32_t vcpus)
{
    uint32_t head, cap = pci_find_capability(v->function, PCI_CAP_MSIX, &head), control = head >> 16;
    if (!cap)
        return false;
    uint64_t table = pci_read(v->function, PCI_BAR0 + 4 * MSIX_BAR, 4) & ~15u;
    if (control & MSIX_CONTROL_ENABLE)
        pci_write(v->function, cap + MSIX_CONTROL, 2, control & ~MSIX_CONTROL_ENABLE);
    v->vectors = (control & MSIX_CONTROL_SIZE) + 1;
    for (uint32_t vector = 0; vector < v->vectors && vector < MSIX_VECTORS_MAX; vector++)
        set_vector(table + vector * MSIX_ENTRY_BYTES, irq_message(vcpus));
    pci_write(v->function, cap + MSIX_CONTROL, 2, (control | MSIX_CONTROL_ENABLE) & ~MSIX_CONTROL_MASK_ALL);
    out16(reg(v, REG_MSI_CONFIG_VECTOR), 0);
    return true;
}

/* The firmware has noted in config space which pin the device's line leads to. */
static bool intx_setup(virtio_device *v, uint32_t vcpus)
{
    return irq_line(pci_read(v->function, PCI_INTERRUPT_LINE, 1), reg(v, REG_ISR), vcpus);
}

static void msix_off(virtio_device *v)
{
    uint32_t head, cap = pci_find_capability(v->function, PCI_CAP_MSIX, &head), control = head >> 16;
    if (control & MSIX_CONTROL_ENABLE)
        pci_write(v->function, cap + MSIX_CONTROL, 2, control & ~MSIX_CONTROL_ENABLE);
}

/* A vector of its own for each queue, as far as they go; the last one serves the rest. */
static uint16_t vector_of(const virtio_device *v, uint16_t queue)
{
    uint16_t last = (v->vectors < MSIX_VECTORS_MAX ? v->vectors : MSIX_VECTORS_MAX) - 1;
    return queue + 1 < last ? queue + 1 : last;
}

/* The device says how large a queue is; 0 ends the list. The ring's page frame makes it live. */
static bool queue_setup(virtio_device *v, uint16_t index)
{
    out16(reg(v, REG_QUEUE_SEL), index);
    uint16_t num = in16(reg(v, REG_QUEUE_NUM));
    if (!num || num > QUEUE_SIZE_MAX)
        return false;
    ring_setup(&v->rings[index], index, num, v->accepted >> FEATURE_EVENT_IDX & 1);
    if (v->irq == IRQ_POLL)
        ring_quiet(&v->rings[index]);
    out32(reg(v, REG_QUEUE_PFN), (uint32_t)((uint64_t)v->rings[index].desc >> QUEUE_PFN_SHIFT));
    if (v->irq == IRQ_MSIX)
        out16(reg(v, REG_MSI_QUEUE_VECTOR), vector_of(v, index));
    return true;
}

/* A legacy disk has one queue; of another device we ask for queues until one has no size. */
static uint32_t queues_at_most(const virtio_device *v, uint32_t limit)
{
    uint32_t most = v->device_id == VIRTIO_DEVICE_BLK ? 1 : QUEUE_MAX;
    return limit && limit < most ? limit : most;
}

uint64_t virtio_busy_slots(const virtio_device *v)
{
    uint64_t busy = 0;
    for (uint16_t queue = 0; queue < v->queues; queue++)
        busy |= v->rings[queue].in_flight;
    return busy;
}

uint32_t virtio_negotiate(virtio_device *v, uint32_t irq, uint32_t features, uint32_t queue_limit, uint32_t vcpus)
{
    v->queues = 0;
    if (!find(v))
        return AGENT_NO_DEVICE;

    /* 1. Reset: the device forgets whoever drove it before. */
    out8(reg(v, REG_STATUS), 0);

    /* 2. ACKNOWLEDGE: we have seen it. 3. DRIVER: we know how to drive it. */
    out8(reg(v, REG_STATUS), STATUS_ACKNOWLEDGE);
    out8(reg(v, REG_STATUS), STATUS_ACKNOWLEDGE | STATUS_DRIVER);

    /* 4. Features: of what is offered, what we can do. BAD_FEATURE is a trap for drivers that take everything. */
    v->offered = in32(reg(v, REG_HOST_FEATURES));
    v->accepted = v->offered & features & ~(UINT32_C(1) << FEATURE_BAD_FEATURE);
    out32(reg(v, REG_GUEST_FEATURES), v->accepted);

    /* 5. Interrupts, before the queues: each queue names its vector. */
    v->irq = irq;
    if (irq != IRQ_POLL)
        irq_here();
    if (irq != IRQ_MSIX)
        msix_off(v);
    if ((irq == IRQ_MSIX && !msix_setup(v, vcpus)) || (irq == IRQ_INTX && !intx_setup(v, vcpus)))
        v->irq = IRQ_POLL;

    /* 6. Queues. DRIVER_OK is left to whoever asked. */
    uint32_t most = queues_at_most(v, queue_limit);
    while (v->queues < most && queue_setup(v, v->queues))
        v->queues++;
    return v->queues ? AGENT_OK : AGENT_NO_DEVICE;
}

/* Interrupts are off outside the hlt: whoever looks for work and then calls this cannot miss the one in between. */
void virtio_relax(const virtio_device *v)
{
    if (v->irq != IRQ_POLL)
        halt_until_interrupt();
    else
        relax();
}

bool virtio_wait(const virtio_device *v, const ring *r, uint64_t deadline)
{
    if (v->irq != IRQ_POLL)
        irq_here(); /* before the look: a message to a vCPU that takes none is lost */
    while (!ring_has_used(r)) {
        if (rdtsc() > deadline)
            return false;
        virtio_relax(v);
    }
    return true;
}
