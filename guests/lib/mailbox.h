/* Where host and guest meet: a page for each vCPU at GPA_MAILBOX. */
#ifndef LABKIT_MAILBOX_H
#define LABKIT_MAILBOX_H

#include <stdint.h>

#include "abi.h"

typedef struct {
    uint64_t args[MB_SLOTS];    /* written by the host */
    uint64_t results[MB_SLOTS]; /* written by the guest, as is the rest */
    uint64_t status;            /* AGENT_* */
    uint8_t unused[MB_SAMPLES - MB_STATUS - sizeof(uint64_t)];
    uint64_t samples[MB_SAMPLES_MAX];
} mailbox;

_Static_assert(__builtin_offsetof(mailbox, results) == MB_RESULTS, "abi.h");
_Static_assert(__builtin_offsetof(mailbox, status) == MB_STATUS, "abi.h");
_Static_assert(__builtin_offsetof(mailbox, samples) == MB_SAMPLES && sizeof(mailbox) <= MAILBOX_STRIDE, "abi.h");

#endif
