/* A backend's thread, as the loop sees it. */
#ifndef LABKIT_WORKER_H
#define LABKIT_WORKER_H

#include "core.h"

void loop_serve_as(lk_loop *loop, uint16_t actor, lk_worker *worker);
void worker_run(lk_worker *worker, unsigned queue);

#endif
