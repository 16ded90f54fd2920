int lk_kvm_install_signal(void);
lk_vcpu *lk_kvm_vcpu_new(lk_machine *machine, int index, int fd, void *run_page);
int lk_kvm_run(lk_vcpu *vcpu);

void lk_kvm_wire_lines(lk_machine *machine);
int lk_kvm_set_routes(int vm_fd, unsigned pins, unsigned count, const uint64_t *addresses, const uint32_t *data);

/* The bare loops of the bench: what the same guest costs with nothing of the lab around it. */

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
