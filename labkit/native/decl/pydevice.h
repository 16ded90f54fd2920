typedef struct {
    uint16_t head;
    uint32_t out_count, in_count;
    uint64_t out_bytes, in_bytes;
} lk_taken;

lk_taken *lk_python_pop(lk_device *device, unsigned queue);
void lk_taken_free(lk_taken *taken);
uint64_t lk_taken_read(const lk_taken *taken, uint64_t from, void *out, uint64_t most);
uint64_t lk_taken_write(const lk_taken *taken, uint64_t from, const void *data, uint64_t bytes);
void lk_python_push(lk_device *device, unsigned queue, const lk_taken *taken, uint32_t written);
void lk_python_interrupt(lk_device *device, unsigned queue);
void lk_python_fail(lk_device *device, unsigned queue);
