/* What else than a host notifier can the iothread watch? The fd behind a device, with a function to call. */
#ifndef LABKIT_LOOP_H
#define LABKIT_LOOP_H

#include "core.h"

/* Called by the iothread under the big lock when there is something to read; again and again while there is. */
typedef void loop_ready(lk_loop *loop, lk_device *device, unsigned queue);

/* Both under the big lock; both return 0 or -errno. What is forgotten is not called any more, also if it was ready. */
int loop_watch(lk_loop *loop, lk_device *device, unsigned queue, int fd, loop_ready *ready);
int loop_forget(lk_loop *loop, int fd);

#endif
