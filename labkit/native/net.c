/* How does a frame get from the guest's rings to the cable, and from the cable into the guest? All under the big lock.
 *
 * A frame is copied once out of the guest, or once out of the cable, and judged by the copy. */
#include "loop.h"
#include "queue.h"
#include <poll.h>
#include <sys/socket.h>
#include <time.h>

enum {
    FRAME_MIN = 14,      /* an Ethernet header */
    MULTICAST = 0x01,    /* in the first byte of an address */
    FRAMES_AT_ONCE = 64, /* then others may have the big lock */
    CONTROL_HEADER = 2,  /* class, command */
};

_Static_assert(sizeof((lk_net *)0)->packet == NET_HEADER_BYTES + NET_FRAME_MAX + 1, "decl/net.h");

/* The first `most` bytes of what the guest lets us read, or as many as there are. */
static void gather(const struct lk_chain *chain, uint8_t *to, size_t most)
{
    for (uint32_t i = 0; i < chain->out_count && most; i++) {
        size_t part = chain->out[i].iov_len < most ? chain->out[i].iov_len : most;
        memcpy(to, chain->out[i].iov_base, part);
        to += part;
        most -= part;
    }
}

/* Into what the guest lets us write; the caller has seen that there is room. */
static void scatter(const struct lk_chain *chain, const uint8_t *from, size_t bytes)
{
    for (uint32_t i = 0; i < chain->in_count && bytes; i++) {
        size_t part = chain->in[i].iov_len < bytes ? chain->in[i].iov_len : bytes;
        memcpy(chain->in[i].iov_base, from, part);
        from += part;
        bytes -= part;
    }
}

static void went(lk_device *device, const lk_vq *vq, int way, size_t bytes)
{
    device->net->frames[way]++;
    lk_feed_emit(device->machine->feed, EV_FRAME, vq->index, (uint64_t)way, bytes, 0, 0, 0);
}

static int is_frame(size_t bytes)
{
    return bytes >= FRAME_MIN && bytes <= NET_FRAME_MAX;
}

/* One record of a pcap file, whole or not at all: half of one would make all that follow unreadable. */
static void capture(lk_net *net, const uint8_t *frame, size_t bytes)
{
    struct {
        uint32_t seconds, microseconds, bytes_here, bytes_of_frame;
    } record;
    struct iovec parts[] = {{&record, sizeof record}, {(void *)frame, bytes}};
    struct timespec now;
    if (net->capture_fd < 0)
        return;
    clock_gettime(CLOCK_REALTIME, &now);
    record.seconds = (uint32_t)now.tv_sec;
    record.microseconds = (uint32_t)(now.tv_nsec / 1000);
    record.bytes_here = record.bytes_of_frame = (uint32_t)bytes;
    if (pwritev(net->capture_fd, parts, 2, (off_t)net->capture_bytes) == (ssize_t)(sizeof record + bytes)) {
        net->capture_bytes += sizeof record + bytes;
        return;
    }
    net->not_captured++;
    (void)!ftruncate(net->capture_fd, (off_t)net->capture_bytes);
}

/* -- to the cable -------------------------------------------------------------------------------------------------- */

/* 1 if the other side took the frame. One that is full or gone does not, and nobody waits for it. */
static int cable_takes(const lk_net *net, const uint8_t *frame, size_t bytes)
{
    ssize_t sent;
    do
        sent = net->is_socket ? send(net->fd, frame, bytes, MSG_NOSIGNAL | MSG_DONTWAIT) : write(net->fd, frame, bytes);
    while (sent < 0 && errno == EINTR);
    return sent == (ssize_t)bytes;
}

static int send_one(lk_device *device, lk_vq *vq)
{
    struct lk_chain *chain = device->chain;
    lk_net *net = device->net;
    const uint8_t *frame = net->packet + NET_HEADER_BYTES;
    if (chain->out_bytes < NET_HEADER_BYTES) {
        device_break(device, vq, BROKEN_REQUEST_HEADER, chain->head);
        return -1;
    }
    size_t bytes = chain->out_bytes - NET_HEADER_BYTES;
    gather(chain, net->packet, sizeof net->packet);
    if (is_frame(bytes))
        capture(net, frame, bytes);
    int taken = is_frame(bytes) && net->fd >= 0 && cable_takes(net, frame, bytes);
    went(device, vq, taken ? FRAME_SENT : FRAME_DROPPED_TO_HOST, bytes);
    queue_push_chain(device, vq, 0);
    return 0;
}

/* -- to the guest -------------------------------------------------------------------------------------------------- */

static loop_ready receive;

/* The iothread watches the cable only while a frame could be given to the guest. Without that, a frame would be read
 * and lost, or left and waited for in a circle. */
static void watch(lk_device *device)
{
    lk_net *net = device->net;
    lk_loop *loop = device->machine->loop;
    int wanted = net->live && net->fd >= 0 && !net->gone && queue_has_next(device, &device->vq[NET_RX]);
    if (!loop || wanted == net->watched)
        return;
    if (wanted)
        wanted = !loop_watch(loop, device, NET_RX, net->fd, receive);
    else
        loop_forget(loop, net->fd);
    net->watched = (uint8_t)wanted;
}

static int hung_up(int fd)
{
    struct pollfd look = {.fd = fd, .events = POLLIN};
    return poll(&look, 1, 0) == 1 && (look.revents & (POLLHUP | POLLERR));
}

/* The next frame of the cable, into net->packet behind the header. Its bytes, cut where it is too long; -1: none.
 * A peer that closes without having read all that we sent says so once, and what it sent before is still there. */
static ssize_t cable_gives(lk_net *net)
{
    ssize_t bytes;
    do
        bytes = read(net->fd, net->packet + NET_HEADER_BYTES, sizeof net->packet - NET_HEADER_BYTES);
    while (bytes < 0 && (errno == EINTR || errno == ECONNRESET));
    if (bytes < 0 ? errno != EAGAIN : !bytes && hung_up(net->fd)) {
        net->gone = 1;
        return -1;
    }
    return bytes;
}

/* May the guest hear it? Unicast to others and multicast it has to ask for; after a reset it hears all. */
static int passes(const lk_net *net, const uint8_t *to)
{
    static const uint8_t broadcast[MAC_BYTES] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
    if (net->promiscuous || !memcmp(to, broadcast, MAC_BYTES))
        return 1;
    return *to & MULTICAST ? net->all_multicast : !memcmp(to, net->mac, MAC_BYTES);
}

/* Into the next chain of the rx ring. FRAME_*. A chain that is too small stays, for a smaller frame. */
static int give(lk_device *device, lk_vq *vq, size_t bytes)
{
    struct lk_chain *chain = device->chain;
    lk_net *net = device->net;
    if (!is_frame(bytes))
        return FRAME_DROPPED_TO_GUEST;
    if (!passes(net, net->packet + NET_HEADER_BYTES))
        return FRAME_FILTERED;
    if (queue_pop(device, vq) <= 0)
        return FRAME_DROPPED_TO_GUEST;
    if (chain->in_bytes < NET_HEADER_BYTES) {
        device_break(device, vq, BROKEN_REQUEST_HEADER, chain->head);
        return FRAME_DROPPED_TO_GUEST;
    }
    if (chain->in_bytes < NET_HEADER_BYTES + bytes) {
        queue_unpop(vq);
        return FRAME_DROPPED_TO_GUEST;
    }
    memset(net->packet, 0, NET_HEADER_BYTES); /* no offload, so nothing to say */
    scatter(chain, net->packet, NET_HEADER_BYTES + bytes);
    capture(net, net->packet + NET_HEADER_BYTES, bytes);
    vq->requests++;
    queue_push_chain(device, vq, (uint32_t)(NET_HEADER_BYTES + bytes));
    return FRAME_RECEIVED;
}

/* The iothread found the cable readable. No kick caused this run, so it is not an event of rule R14. */
static void receive(void *who, unsigned queue)
{
    lk_device *device = who;
    lk_vq *vq = &device->vq[queue];
    ssize_t bytes;
    int given = 0;
    for (int left = FRAMES_AT_ONCE; left && queue_has_next(device, vq); left--) {
        if ((bytes = cable_gives(device->net)) < 0)
            break;
        int way = give(device, vq, (size_t)bytes);
        went(device, vq, way, (size_t)bytes);
        given |= way == FRAME_RECEIVED;
        if (load_relaxed(&device->stopping))
            break;
    }
    if (given)
        queue_interrupt(device, vq);
    watch(device);
}

/* -- the control queue, and the queues as a whole ------------------------------------------------------------------- */

static uint8_t obey(lk_net *net, const uint8_t *order, uint64_t bytes)
{
    if (order[0] != NET_CTRL_CLASS_RX || bytes <= CONTROL_HEADER)
        return NET_CTRL_ERR;
    uint8_t on = order[CONTROL_HEADER] != 0;
    if (order[1] == NET_CTRL_RX_PROMISC)
        net->promiscuous = on;
    else if (order[1] == NET_CTRL_RX_ALLMULTI)
        net->all_multicast = on;
    else
        return NET_CTRL_ERR;
    return NET_CTRL_OK;
}

static int control_one(lk_device *device, lk_vq *vq)
{
    struct lk_chain *chain = device->chain;
    uint8_t order[CONTROL_HEADER + 1];
    if (chain->out_bytes < CONTROL_HEADER || !chain->in_bytes) {
        device_break(device, vq, BROKEN_REQUEST_HEADER, chain->head);
        return -1;
    }
    gather(chain, order, sizeof order);
    uint8_t answer = obey(device->net, order, chain->out_bytes);
    scatter(chain, &answer, sizeof answer);
    lk_feed_emit(device->machine->feed, EV_CHAIN, vq->index, chain->head, chain->out_bytes, sizeof answer, 0, 0);
    queue_push_chain(device, vq, sizeof answer);
    return 0;
}

/* Until the ring is empty, with one interrupt at the end; cut short by a stop, and then finished on resume. */
static void serve_all(lk_device *device, lk_vq *vq, int (*serve_one)(lk_device *, lk_vq *))
{
    int done = 0;
    while (queue_pop(device, vq) > 0 && !serve_one(device, vq)) {
        done = 1;
        vq->requests++;
        if (load_relaxed(&device->stopping)) {
            vq->unfinished = 1;
            break;
        }
    }
    if (done)
        queue_interrupt(device, vq);
}

/* A kick of the rx queue says that there are buffers; the frames come from the iothread. */
void net_serve(lk_device *device, lk_vq *vq)
{
    if (vq->index == NET_TX)
        serve_all(device, vq, send_one);
    else if (vq->index == NET_CTRL)
        serve_all(device, vq, control_one);
    watch(device);
}

void net_reset(lk_device *device)
{
    device->net->promiscuous = 1;
    device->net->all_multicast = 0;
    watch(device);
}

/* Told at each change, under the big lock: may the guest get frames? */
void lk_net_follow(lk_device *device, int live)
{
    device->net->live = live != 0;
    watch(device);
}
