typedef struct lk_chain lk_chain;
typedef struct lk_net lk_net;
typedef struct lk_terminal lk_terminal;

typedef struct {
    uint16_t num; /* descriptors; 0 = no such queue */
    uint16_t index;
    uint16_t last_avail; /* next avail entry the device will take */
    uint16_t used_idx; /* the device's own copy of used.idx */
    uint16_t vector; /* MSI-X vector, NO_VECTOR = none */
    uint16_t decided_at; /* used.idx when EVENT_IDX was last asked whether to interrupt ... */
    uint8_t decided; /* ... since the ring was set up */
    uint8_t unfinished; /* a run was cut short by a stop: run again on resume */
    uint32_t inuse; /* popped, not yet pushed */
    uint32_t pfn;
    uint64_t desc, avail, used; /* guest-physical; desc 0 = no ring */
    int notifier_fd; /* -1 = none */
    uint8_t lent; /* a backend serves it, with indices of its own */
    uint8_t irq_wanted; /* a backend wants an interrupt for it, not delivered yet */
    uint32_t synthetic_due; /* of the eventfd's count: what it was born with and START signalled */
    uint32_t forwarded_due; /* of the eventfd's count: kicks that trapped */
    uint64_t trapped, signalled, drained, synthetic; /* kicks by path */
    uint64_t runs, requests, interrupts;
} lk_vq;

typedef struct {
    int fd; /* eventfd bound to the vector by irqfd; -1 = none */
    uint8_t masked, pending;
} lk_vector;

typedef struct {
    int fd;
    uint8_t writable;
    uint64_t sectors;
    uint64_t delay_ns; /* how much longer each data request takes */
    char id[20]; /* BLK_ID_BYTES */
} lk_blk;

typedef struct lk_device lk_device;
struct lk_device {
    lk_machine *machine;
    int kind; /* DEVICE_* */
    uint16_t notify_port; /* BAR0 + REG_QUEUE_NOTIFY while I/O decode is on, else 0 */
    uint8_t isr, broken, stopping;
    uint8_t disabled; /* bus-master is off, and the rules heed it: kicks are seen, rings are left alone */
    uint32_t mutations; /* MUTATE_*: what is wrong on purpose */
    uint16_t early_wish; /* MUTATE_LOOKS_EARLY: avail.flags as it was before the chain was given back */
    uint8_t forwards_traps; /* a trapped kick is written to the host notifier, if there is one */
    uint8_t starts_on_kick; /* a trapped kick is handed up: the rules start the notifiers first */
    uint32_t queue_indices; /* a trapped kick of this index or more is ignored (R12) */
    uint8_t hurry; /* somebody who stops the machine waits for the big lock: a slow device leaves the rest for later */
    uint8_t msix_enabled, msix_masked;
    uint8_t intx_disabled, intx_high; /* COMMAND's bit; the level of the line now */
    uint8_t suppress; /* ask for no kicks while a run drains the ring: the revision's choice, a reset keeps it */
    int intx_fd; /* the VM whose pin INTX_PIN the line drives; -1 = it leads nowhere */
    uint32_t guest_features;
    lk_vq vq[QUEUE_MAX];
    lk_vq absent; /* what a guest finds behind an index that QUEUE_SEL takes and no queue has */
    lk_vector vectors[MSIX_VECTORS_MAX];
    lk_blk blk;
    lk_net *net;
    lk_terminal *terminal;
    lk_device *front; /* of a backend's own copy: the device the guest sees; else NULL */
    void *python; /* DEVICE_PYTHON: the handle it is called back by; NULL = nobody is there */
    lk_chain *chain; /* the descriptor chain being served; one at a time, under the big lock */
};

#define DEVICE_NULL 0
#define DEVICE_BLK 1
#define DEVICE_NET 2
#define DEVICE_CONSOLE 3
#define DEVICE_PYTHON 4
#define DEVICE_KINDS 5

lk_device *lk_device_new(lk_machine *machine, int kind);
void lk_device_free(lk_device *device);
void lk_device_reset(lk_device *device);
void lk_queue_set_pfn(lk_device *device, unsigned queue, uint32_t pfn);
int lk_queue_run(lk_device *device, unsigned queue, int how);
#define TRAP_RAN 1
#define TRAP_FORWARDED 2
#define TRAP_STARTS 3 /* nothing ran: the rules are to start the notifiers */

int lk_queue_look(lk_device *device, unsigned queue);
int lk_queue_trap(lk_device *device, uint32_t value, unsigned width, uint16_t port);
int lk_queue_trap_locked(lk_device *device, uint32_t value, unsigned width, uint16_t port);
uint64_t lk_notifier_take(lk_device *device, unsigned queue, int how);
void lk_be_slow(uint64_t delay_ns);
int lk_vector_raise(lk_device *device, unsigned vector);
int lk_intx_update(lk_device *device);
uint8_t lk_isr_take(lk_device *device);
void lk_config_changed(lk_device *device, unsigned vector);
