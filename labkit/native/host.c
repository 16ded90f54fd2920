/* The system calls Python cannot say by itself. Each answers its result or -errno. */
#include "core.h"

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
