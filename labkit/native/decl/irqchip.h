/* Interrupt controllers of a machine whose CPU is emulated. All calls come from the one thread that runs the vCPUs, or
 * while it stands still; nothing here locks. A vCPU, pin or width that does not exist does nothing and answers nothing. */
typedef struct lk_irqchip lk_irqchip;

/* what the interrupt command register of a vCPU (or a message) sent to another, beside interrupts with a vector */
#define SENT_NOTHING 0
#define SENT_INIT 1 /* the local APIC has been reset by then */
#define SENT_SIPI 2
#define SENT_NMI 3

#define NO_INTERRUPT -1
#define NO_TIMER 0xffffffffffffffff

lk_irqchip *lk_irqchip_new(unsigned vcpus, int full);
void lk_irqchip_free(lk_irqchip *chip);
void lk_irqchip_reset(lk_irqchip *chip);
uint64_t lk_irqchip_bytes(void);
void lk_irqchip_save(const lk_irqchip *chip, void *out);
void lk_irqchip_load(lk_irqchip *chip, const void *state);
void lk_irqchip_reset_vcpu(lk_irqchip *chip, unsigned vcpu);

int lk_irqchip_mmio(lk_irqchip *chip, unsigned vcpu, uint64_t gpa, unsigned width, int write, uint64_t *value);
int lk_irqchip_port(lk_irqchip *chip, uint16_t port, unsigned width, int write, uint32_t *value);
void lk_irqchip_message(lk_irqchip *chip, uint64_t address, uint32_t data);
void lk_irqchip_line(lk_irqchip *chip, unsigned pin, int level);

int lk_irqchip_pending(const lk_irqchip *chip, unsigned vcpu);
int lk_irqchip_accept(lk_irqchip *chip, unsigned vcpu);
int lk_irqchip_take_event(lk_irqchip *chip, unsigned vcpu, uint8_t *sipi_vector);

uint64_t lk_irqchip_next_timer(const lk_irqchip *chip);
void lk_irqchip_set_time(lk_irqchip *chip, uint64_t now_ns);
