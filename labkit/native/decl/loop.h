lk_loop *lk_loop_new(lk_machine *machine);
void lk_loop_free(lk_loop *loop);
int lk_loop_attach(lk_loop *loop, lk_device *device, unsigned queue, int fd);
int lk_loop_detach(lk_loop *loop, int fd);
int lk_loop_start(lk_loop *loop, const char *name);
uint64_t lk_loop_wakeups(const lk_loop *loop);
