/* Floors that need no guest. Times in ns, or ps where the name says so. */

uint64_t lk_bare_delay_ns(uint64_t delay_ns, unsigned times);
uint64_t lk_bare_event_ps(unsigned times);
uint64_t lk_event_ps(lk_feed *feed, unsigned times);
uint64_t lk_tsc_khz(void);
uint64_t lk_bare_copy_ns(void *to, const void *from, uint64_t bytes);
uint64_t lk_bare_ask_ns(int fd, const void *question, uint64_t bytes);
int lk_bare_answer(int fd, void *question, uint64_t bytes, unsigned times);

/* The bare loops: what the same guest costs with nothing of the lab around it. */

typedef struct lk_bare_cpu lk_bare_cpu;

typedef struct {
    lk_vcpu *vcpu; /* stopped; lent to the calling thread */
    lk_bare_cpu *cpu; /* emulated: who executes the guest meanwhile */
    lk_device *device; /* ring addresses of queue 0; NULL: kicks are ignored */
    uint16_t notify_port;
    int eventfd; /* -1: kicks trap */
    int interrupt_fd; /* a write to it interrupts the driver */
    int reader_cpu; /* where the thread that drains the eventfd runs; -1: anywhere */
    uint16_t last_avail, used_idx;
    uint64_t served;
} lk_bare;

int lk_emulated_bare_step(lk_bare *bare, uint32_t command);
uint64_t lk_emulated_bare_boot_ns(void);
uint64_t lk_emulated_bare_reset_ns(lk_bare_cpu *bare, const lk_entry *entry, unsigned times);
uint64_t lk_emulated_bare_load_ns(lk_bare_cpu *bare);
lk_bare_cpu *lk_emulated_bare_new(lk_vcpu *vcpu);
void lk_emulated_bare_free(lk_bare_cpu *bare);
