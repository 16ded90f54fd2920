typedef struct lk_worker lk_worker;

lk_worker *lk_worker_new(lk_device *device, const char *name);
void lk_worker_free(lk_worker *worker);
int lk_worker_take(lk_worker *worker, unsigned queue);
void lk_worker_give(lk_worker *worker, unsigned queue);
void lk_worker_hold(lk_worker *worker);
void lk_worker_go_on(lk_worker *worker);
int lk_worker_unfinished(const lk_worker *worker, unsigned queue);
uint64_t lk_worker_requests(const lk_worker *worker, unsigned queue);
