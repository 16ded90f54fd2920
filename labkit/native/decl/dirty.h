int lk_dirty_track(lk_machine *machine, int on);
int lk_dirty_compare(lk_machine *machine, int memfd);
void lk_dirtied(lk_machine *machine, uint64_t gpa, uint64_t bytes);
uint32_t lk_dirty_take(lk_machine *machine, const uint64_t *more, uint32_t *pages);
int lk_dirty_copy(const lk_machine *machine, const uint32_t *pages, uint32_t count, void *out);
int lk_dirty_put_back(lk_machine *machine, const uint32_t *pages, uint32_t count, const void *image);
int lk_dirty_put(lk_machine *machine, const uint32_t *pages, uint32_t count, const void *contents);
