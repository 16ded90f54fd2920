long lk_ioctl(int fd, unsigned long request, void *argument);
long lk_ioctl_value(int fd, unsigned long request, unsigned long value);
void *lk_map_shared(int fd, uint64_t bytes);
void lk_name_thread(const char *name);
int lk_unmap(void *address, uint64_t bytes);
