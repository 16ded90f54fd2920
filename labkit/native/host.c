/* The system calls Python cannot say by itself. Each answers its result or -errno. */
#include "core.h"
#include <linux/kvm.h>

long lk_ioctl(int fd, unsigned long request, void *argument)
{
    int result = ioctl(fd, request, argument);
    return result < 0 ? -errno : result;
}

long lk_ioctl_value(int fd, unsigned long request, unsigned long value)
{
    int result = ioctl(fd, request, value);
    return result < 0 ? -errno : result;
}

/* A level of the full irqchip, for whoever the pin is routed to. */
void lk_line_set(int vm_fd, unsigned pin, int high)
{
    struct kvm_irq_level line = {.irq = pin, .level = (uint32_t)high};
    ioctl(vm_fd, KVM_IRQ_LINE, &line);
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
int lk_set_msi_routes(int vm_fd, unsigned pins, unsigned count, const uint64_t *addresses, const uint32_t *data)
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

void *lk_map_shared(int fd, uint64_t bytes)
{
    void *address = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, 0);
    return address == MAP_FAILED ? NULL : address;
}

int lk_unmap(void *address, uint64_t bytes)
{
    return munmap(address, bytes) ? -errno : 0;
}

/* As top and gdb show it; cut to 15 characters. */
void lk_name_thread(const char *name)
{
    char cut[16];
    strncpy(cut, name, sizeof cut - 1);
    cut[sizeof cut - 1] = 0;
    pthread_setname_np(pthread_self(), cut);
}
