/* What the core itself writes into guest memory is noted here, after it was written. */
#ifndef LABKIT_DIRTY_H
#define LABKIT_DIRTY_H

#include "core.h"

/* `host` lies in guest memory. Costs a look at one byte while nobody tracks. */
static inline void dirtied(lk_machine *machine, const void *host, uint64_t bytes)
{
    if (load_relaxed(&machine->tracking))
        lk_dirtied(machine, (uint64_t)((const uint8_t *)host - machine->memory.host), bytes);
}

void dirty_free(lk_machine *machine);

#endif
