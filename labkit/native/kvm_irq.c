/* How do interrupts reach a guest on KVM? Lines of the full irqchip, and the routing table of both. */
#include "core.h"
#include <linux/kvm.h>

/* A level of the full irqchip, for whoever the pin is routed to. */
static void set_line(void *nothing, int vm_fd, unsigned pin, int high)
{
    (void)nothing;
    struct kvm_irq_level line = {.irq = pin, .level = (uint32_t)high};
    ioctl(vm_fd, KVM_IRQ_LINE, &line);
}

void lk_kvm_wire_lines(lk_machine *machine)
{
    machine->set_line = set_line;
}

static struct kvm_irq_routing_entry pin_route(unsigned gsi, unsigned chip, unsigned pin)
{
    return (struct kvm_irq_routing_entry){
        .gsi = gsi, .type = KVM_IRQ_ROUTING_IRQCHIP, .u.irqchip = {.irqchip = chip, .pin = pin}};
}

/* A PC's wiring: each line goes to its pin of the I/O APIC, the first 16 to one of the two PICs as well. */
static unsigned pin_routes(struct kvm_irq_routing_entry *entries, unsigned pins)
{
    unsigned count = 0;
    for (unsigned pin = 0; pin < pins; pin++) {
        entries[count++] = pin_route(pin, KVM_IRQCHIP_IOAPIC, pin);
        if (pin < 2 * PIC_PINS)
            entries[count++] =
                pin_route(pin, pin < PIC_PINS ? KVM_IRQCHIP_PIC_MASTER : KVM_IRQCHIP_PIC_SLAVE, pin % PIC_PINS);
    }
    return count;
}

/* The whole table at once, as the kernel takes it: `pins` lines of a full irqchip, and behind them message n at GSI
 * pins + n. */
int lk_kvm_set_routes(int vm_fd, unsigned pins, unsigned count, const uint64_t *addresses, const uint32_t *data)
{
    struct {
        struct kvm_irq_routing head;
        struct kvm_irq_routing_entry entries[IOAPIC_PINS + 2 * PIC_PINS + MSIX_VECTORS_MAX];
    } table;
    memset(&table, 0, sizeof table);
    if (count > MSIX_VECTORS_MAX || pins > IOAPIC_PINS)
        return -EINVAL;
    unsigned wired = pin_routes(table.entries, pins);
    table.head.nr = wired + count;
    for (unsigned i = 0; i < count; i++) {
        struct kvm_irq_routing_entry *entry = &table.entries[wired + i];
        entry->gsi = pins + i;
        entry->type = KVM_IRQ_ROUTING_MSI;
        entry->u.msi.address_lo = (uint32_t)addresses[i];
        entry->u.msi.address_hi = (uint32_t)(addresses[i] >> 32);
        entry->u.msi.data = data[i];
    }
    return ioctl(vm_fd, KVM_SET_GSI_ROUTING, &table) < 0 ? -errno : 0;
}
