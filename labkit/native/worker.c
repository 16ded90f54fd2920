/* How does a backend serve a queue? A thread with its own epoll, its own indices and its own lock: while it runs a queue
 * nobody else waits for it, and it looks at the big lock only to count a kick and to raise an interrupt.
 *
 * Lock order: the big lock, then the worker's. It works on a copy of the device whose `front` is the one the guest sees;
 * a queue's ring and indices are copied when it takes the queue, and the indices go back when it gives it. */
#include "gates.h"
#include "loop.h"
#include "queue.h"

struct lk_worker {
    lk_device *front, *copy;
    pthread_mutex_t lock; /* held while a queue runs */
    int held;
    lk_loop *loop;
};

static void lock(lk_worker *worker)
{
    if (__builtin_expect(load_relaxed(&worker->front->machine->guarded), 0))
        gates_want(worker->front->machine->gates, WANTS_BACKENDS_LOCK, &worker->held, 0);
    pthread_mutex_lock(&worker->lock);
    store_relaxed(&worker->held, 1);
    gates_locked(HAS_BACKENDS_LOCK, 1);
}

static void unlock(lk_worker *worker)
{
    gates_locked(HAS_BACKENDS_LOCK, 0);
    store_relaxed(&worker->held, 0);
    pthread_mutex_unlock(&worker->lock);
}

lk_worker *lk_worker_new(lk_device *device, const char *name)
{
    lk_worker *worker = calloc(1, sizeof *worker);
    if (!worker)
        return NULL;
    pthread_mutex_init(&worker->lock, NULL);
    worker->front = device;
    worker->copy = lk_device_new(device->machine, device->kind);
    worker->loop = lk_loop_new(device->machine);
    if (!worker->copy || !worker->loop) {
        int error = errno;
        lk_worker_free(worker);
        errno = error;
        return NULL;
    }
    worker->copy->front = device;
    loop_act_as(worker->loop, ACTOR_BACKEND);
    int failed = lk_loop_start(worker->loop, name);
    if (failed) {
        lk_worker_free(worker);
        errno = -failed;
        return NULL;
    }
    return worker;
}

/* Every queue was given back before. */
void lk_worker_free(lk_worker *worker)
{
    if (!worker)
        return;
    lk_loop_free(worker->loop);
    lk_device_free(worker->copy);
    pthread_mutex_destroy(&worker->lock);
    free(worker);
}

static void deliver(lk_worker *worker, unsigned queue)
{
    if (__atomic_exchange_n(&worker->copy->vq[queue].irq_wanted, 0, __ATOMIC_ACQ_REL))
        queue_raise(worker->front, &worker->front->vq[queue]);
}

/* The eventfd fired. The kick is taken under the big lock; then the queue runs without it. */
static void kicked(void *who, unsigned queue)
{
    lk_worker *worker = who;
    if (!lk_notifier_take(worker->front, queue, RUN_BACKEND))
        return;
    lock(worker);
    lk_lock_release(worker->front->machine);
    lk_queue_run(worker->copy, queue, RUN_BACKEND);
    unlock(worker);
    lk_lock_take(worker->front->machine);
    deliver(worker, queue);
}

/* Under the big lock, with the eventfd assigned: the backend's base is where the device stands now. 0 or -errno. */
int lk_worker_take(lk_worker *worker, unsigned queue)
{
    lk_vq *vq = &worker->front->vq[queue % QUEUE_MAX], *mine = &worker->copy->vq[vq->index];
    uint64_t requests = mine->requests;
    *mine = *vq;
    mine->requests = requests;
    worker->copy->blk = worker->front->blk;
    worker->copy->guest_features = worker->front->guest_features;
    worker->copy->disabled = worker->front->disabled;
    worker->copy->suppress = worker->front->suppress;
    worker->copy->broken = worker->front->broken;
    worker->copy->stopping = 0;
    int failed = loop_watch(worker->loop, worker, vq->index, vq->notifier_fd, kicked);
    if (failed)
        return failed;
    vq->lent = 1;
    lk_feed_emit(worker->front->machine->feed, EV_BACKEND, vq->index, 1, vq->last_avail, vq->inuse,
                 worker->front->broken, 0);
    return 0;
}

/* Under the big lock, before the deassign: the worker lets go, a run under way is cut short and waited for, and the
 * device goes on where the backend stands. What is pending or unfinished is for whoever drains next. */
void lk_worker_give(lk_worker *worker, unsigned queue)
{
    lk_vq *vq = &worker->front->vq[queue % QUEUE_MAX], *mine = &worker->copy->vq[vq->index];
    if (!vq->lent)
        return;
    loop_forget(worker->loop, vq->notifier_fd);
    store_relaxed(&worker->copy->stopping, 1);
    lock(worker);
    store_relaxed(&worker->copy->stopping, 0);
    vq->last_avail = mine->last_avail;
    vq->used_idx = mine->used_idx;
    vq->inuse = mine->inuse;
    vq->unfinished = mine->unfinished;
    vq->decided = mine->decided;
    vq->decided_at = mine->decided_at;
    worker->front->broken |= worker->copy->broken;
    unlock(worker);
    deliver(worker, vq->index);
    vq->lent = 0;
    lk_feed_emit(worker->front->machine->feed, EV_BACKEND, vq->index, 0, vq->last_avail, vq->inuse,
                 worker->front->broken, 0);
}

/* Under the big lock: nothing runs until lk_worker_go_on; a run under way is cut short and waited for. */
void lk_worker_hold(lk_worker *worker)
{
    store_relaxed(&worker->copy->stopping, 1);
    lock(worker);
    store_relaxed(&worker->copy->stopping, 0);
}

/* With the disk as the device has it now. */
void lk_worker_go_on(lk_worker *worker)
{
    worker->copy->blk = worker->front->blk;
    unlock(worker);
}

/* Was a run of this queue cut short? */
int lk_worker_unfinished(const lk_worker *worker, unsigned queue)
{
    return load_relaxed(&worker->copy->vq[queue % QUEUE_MAX].unfinished);
}

uint64_t lk_worker_requests(const lk_worker *worker, unsigned queue)
{
    return load_relaxed(&worker->copy->vq[queue % QUEUE_MAX].requests);
}
