/* What every file of the core sees: the numbers, the declarations that Python sees too, and a few helpers. */
#ifndef LABKIT_CORE_H
#define LABKIT_CORE_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#include "abi.h"

#include "decl/events.h"
#include "decl/feed.h"
#include "decl/machine.h"
#include "decl/dirty.h"
#include "decl/device.h"
#include "decl/terminal.h"
#include "decl/pydevice.h"
#include "decl/host.h"
#include "decl/loop.h"
#include "decl/worker.h"
#include "decl/net.h"
#include "decl/vcpu.h"
#include "decl/gates.h"
#include "decl/irqchip.h"
#include "decl/emulated.h"
#include "decl/bench.h"
#include "decl/litmus.h"
#include "decl/kvm.h"

#define PIC_PINS 8 /* of each of the two */

#define load_relaxed(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define store_relaxed(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define full_barrier() __atomic_thread_fence(__ATOMIC_SEQ_CST)

#endif
