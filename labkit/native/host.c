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

/* GSI n delivers message n: the whole table at once, as the kernel takes it. */
int lk_set_msi_routes(int vm_fd, unsigned count, const uint64_t *addresses, const uint32_t *data)
{
    struct {
        struct kvm_irq_routing head;
        struct kvm_irq_routing_entry entries[MSIX_VECTORS_MAX];
    } table;
    memset(&table, 0, sizeof table);
    if (count > MSIX_VECTORS_MAX)
        return -EINVAL;
    table.head.nr = count;
    for (unsigned i = 0; i < count; i++) {
        struct kvm_irq_routing_entry *entry = &table.entries[i];
        entry->gsi = i;
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
