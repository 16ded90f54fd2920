#define LITMUS_DEVICE_BARRIER 1
#define LITMUS_DRIVER_BARRIER 2

int64_t lk_litmus(uint64_t rounds, unsigned barriers);
