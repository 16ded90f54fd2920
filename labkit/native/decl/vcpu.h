typedef struct {
    int kind; /* LEFT_* */
    uint8_t write, width;
    uint16_t port;
    uint32_t count; /* items of a string instruction */
    uint64_t gpa; /* MMIO */
    uint8_t *data;
    uint64_t reason, detail; /* of a crash: CRASH_*, and what the back end itself said */
} lk_exit;

typedef struct lk_vcpu_sync lk_vcpu_sync;
typedef struct lk_vcpu_ops lk_vcpu_ops;

typedef struct lk_vcpu lk_vcpu;
struct lk_vcpu {
    lk_machine *machine;
    lk_device *device; /* whose QUEUE_NOTIFY is served without Python */
    int index;
    lk_exit exit;
    lk_vcpu_sync *sync;
    const lk_vcpu_ops *ops; /* what its back end does for it */
    void *own; /* emulated: the rest of it (emulated.h) */
    int fd; /* KVM: the vCPU */
    void *run_page; /* KVM: struct kvm_run, mapped from fd */
};

/* what kind of exit */
#define LEFT_QUIT 0
#define LEFT_IO 1
#define LEFT_MMIO 2
#define LEFT_CRASH 3

/* what is asked of a vCPU thread */
#define ASK_RUN 0
#define ASK_STOP 1 /* out of the guest; one that is parked is out, and is not even woken */
#define ASK_SETTLE 2 /* the same with nothing half done: the registers tell the truth */
#define ASK_QUIT 3

/* a part of a vCPU's state, loaded by its own thread: for KVM an ioctl and its struct */
typedef struct {
    unsigned long request;
    void *state;
} lk_load;

void lk_vcpu_free(lk_vcpu *vcpu);
void lk_vcpu_ask(lk_vcpu *vcpu, int what);
void lk_vcpu_retire(lk_vcpu *vcpu);
int lk_vcpu_wait_stopped(lk_vcpu *vcpu, int timeout_ms);
void lk_vcpu_load(lk_vcpu *vcpu, const lk_load *loads, unsigned count);
int lk_step_busy(lk_vcpu *vcpu);
int lk_step_post(lk_vcpu *vcpu, uint32_t command);
int lk_step_wait(lk_vcpu *vcpu, int timeout_ms);
