/* What the rest of the core sees of the gates. */
#ifndef LABKIT_GATES_H
#define LABKIT_GATES_H

#include "core.h"

lk_gates *gates_new(lk_machine *machine);
void gates_free(lk_gates *gates);
void gates_pass(lk_gates *gates, uint16_t kind, int32_t queue); /* the calling actor has emitted an event */
void gates_want(lk_gates *gates, int what, const int *flag, int wanted); /* WANTS_*, until *flag is that */
void gates_locked(unsigned lock, int is); /* HAS_*: the calling thread has taken it, or released it */
void gates_vcpu(lk_gates *gates, unsigned index, lk_vcpu *vcpu); /* NULL: it goes */
void gates_stopped(lk_gates *gates, const lk_vcpu *vcpu); /* it came out of the guest in the middle of a step */
void gates_runs(lk_gates *gates, const lk_vcpu *vcpu, int loads); /* it is about to be let in; takes the mutex */
void gates_asked(lk_gates *gates); /* it was; releases it */
void gates_enter(lk_gates *gates, const lk_vcpu *vcpu); /* it goes in again */
int vcpu_may_run(const lk_vcpu *vcpu);
int vcpu_shares_thread(const lk_vcpu *vcpu);
int gates_idle(lk_gates *gates, int epoll_fd); /* a loop has nothing to do. 1: look without waiting, 0: as ever */
void gates_parked(lk_gates *gates, lk_vcpu *vcpu); /* a vCPU has done its step */
void gates_loop(lk_gates *gates, unsigned actor, lk_loop *loop); /* is about to start; NULL: has not */
void gates_loop_ends(lk_gates *gates, unsigned actor); /* it is to end */
void gates_loop_gone(lk_gates *gates, int *flag); /* its thread ends; sets the flag */

#endif
