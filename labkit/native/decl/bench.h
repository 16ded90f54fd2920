/* The floors: what the same guest costs with nothing of the lab around it. Times in ns, or ps where the name says so. */

typedef struct {
    lk_vcpu *vcpu; /* stopped; lent to the calling thread */
    lk_device *device; /* ring addresses and interrupt of queue 0; NULL: exits are ignored */
    uint16_t notify_port;
    int eventfd; /* -1: kicks trap */
    int reader_cpu; /* where the thread that drains it runs; -1: anywhere */
    uint16_t last_avail, used_idx;
    uint64_t served;
} lk_bare;

int lk_bare_step(lk_bare *bare, uint32_t command);
uint64_t lk_bare_boot_ns(void);
uint64_t lk_bare_reset_ns(lk_vcpu *vcpu, const void *regs, const void *sregs, unsigned times);
uint64_t lk_bare_delay_ns(uint64_t delay_ns, unsigned times);
uint64_t lk_bare_event_ps(unsigned times);
uint64_t lk_event_ps(lk_feed *feed, unsigned times);
