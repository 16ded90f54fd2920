/* What the rest of the core sees of the gates. */
#ifndef LABKIT_GATES_H
#define LABKIT_GATES_H

#include "core.h"

int lock_holder(const lk_machine *machine); /* the actor that has the big lock, or -1 */
lk_gates *gates_new(lk_machine *machine);
void gates_free(lk_gates *gates);
void gates_pass(lk_gates *gates, uint16_t kind, int32_t queue); /* the calling actor has emitted an event */
void gates_want(lk_gates *gates, const int *flag, int wanted); /* it waits for another, until *flag is that */
void gates_stopped(lk_gates *gates, lk_vcpu *vcpu); /* a vCPU came out of the guest in the middle of a step */
void gates_runs(lk_gates *gates, const lk_vcpu *vcpu, int loads); /* and is let in again */
int vcpu_may_run(lk_vcpu *vcpu);
int gates_idle(lk_gates *gates, int epoll_fd); /* a loop has nothing to do. 1: look without waiting, 0: as ever */
void gates_parked(lk_gates *gates, lk_vcpu *vcpu); /* a vCPU has done its step */
void gates_loop(lk_gates *gates, unsigned actor, lk_loop *loop); /* NULL: it goes */

#endif
