int lk_kvm_install_signal(void);
lk_vcpu *lk_kvm_vcpu_new(lk_machine *machine, int index, int fd, void *run_page);
int lk_kvm_run(lk_vcpu *vcpu);

void lk_kvm_wire_lines(lk_machine *machine);
unsigned lk_kvm_load(int vcpu_fd, const lk_load *loads, unsigned count);
int lk_kvm_set_routes(int vm_fd, unsigned pins, unsigned count, const uint64_t *addresses, const uint32_t *data);

/* Floors of the bench, see decl/bench.h. */
int lk_kvm_bare_step(lk_bare *bare, uint32_t command);
uint64_t lk_kvm_bare_boot_ns(void);
uint64_t lk_kvm_bare_reset_ns(lk_vcpu *vcpu, const void *regs, const void *sregs, unsigned times);
uint64_t lk_kvm_bare_load_ns(int vcpu_fd, const lk_load *loads, unsigned count);
