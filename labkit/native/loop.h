/* What else than a device's host notifier can a loop watch? Any fd, with a function to call and what to call it with. */
#ifndef LABKIT_LOOP_H
#define LABKIT_LOOP_H

#include "core.h"

/* Called by the loop's thread under the big lock when there is something to read; again and again while there is. */
typedef void loop_ready(void *who, unsigned queue);

/* Both under the big lock; both return 0 or -errno. What is forgotten is not called any more, also if it was ready. */
int loop_watch(lk_loop *loop, void *who, unsigned queue, int fd, loop_ready *ready);
void loop_wake(lk_loop *loop); /* out of its wait */
int loop_forget(lk_loop *loop, int fd);

void loop_act_as(lk_loop *loop, uint16_t actor); /* before it is started; else it is the iothread */

#endif
