long lk_ioctl(int fd, unsigned long request, void *argument);
long lk_ioctl_value(int fd, unsigned long request, unsigned long value);
int lk_set_msi_routes(int vm_fd, unsigned pins, unsigned count, const uint64_t *addresses, const uint32_t *data);
void *lk_map_shared(int fd, uint64_t bytes);
void lk_name_thread(const char *name);
int lk_unmap(void *address, uint64_t bytes);
