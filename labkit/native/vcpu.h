/* One vCPU as the core sees it: what its thread and the others say to each other, and what a back end does for it. */
#ifndef LABKIT_VCPU_H
#define LABKIT_VCPU_H

#include "core.h"

/* What differs between those who execute guest code. */
struct lk_vcpu_ops {
    void (*let_in)(lk_vcpu *vcpu, int may); /* may the guest be entered from now on? Under the vCPU's mutex */
    void (*fetch)(lk_vcpu *vcpu); /* the thread is to look at what was asked of it. Under the vCPU's mutex */
    int one_thread; /* executes all of them */
    uint32_t (*park)(lk_vcpu *vcpu); /* the guest reads PORT_PARK: what it finds there */
};

/* Guarded by its mutex, which is taken after the big lock, never before it. */
struct lk_vcpu_sync {
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    pthread_t thread;
    int inside; /* the thread executes the guest: a signal reaches it */
    int asked; /* ASK_* */
    int stopped;
    int dead; /* the guest is gone: nobody will park again */
    uint32_t command; /* posted, not yet taken */
    int busy; /* a step was taken and the guest has not parked since */
    int idle; /* the guest parked and has nothing to do */
    int resting; /* it is parked, out of the guest, and nobody executes it */
    const lk_load *loads; /* state to be loaded before the guest is entered again */
    unsigned load_count;
};

lk_vcpu *vcpu_new(lk_machine *machine, int index, const lk_vcpu_ops *ops); /* asked to stop */
void vcpu_keep_out_or_let_in(lk_vcpu *vcpu);
void vcpu_step_done(lk_vcpu *vcpu);
void vcpu_tell_parked(lk_vcpu *vcpu); /* these three let go of the mutex for a moment */
void vcpu_tell_stopped(lk_vcpu *vcpu);
void vcpu_tell_enters(lk_vcpu *vcpu);
uint32_t vcpu_take_step(lk_vcpu *vcpu);
int vcpu_served_port(lk_vcpu *vcpu, lk_exit *left);
int vcpu_crashed(lk_vcpu *vcpu, uint64_t reason, uint64_t detail); /* fills vcpu->exit; LEFT_CRASH */

#endif
