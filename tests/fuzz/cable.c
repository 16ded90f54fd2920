/* What does virtio-net do with its three rings and its cable? The harness is the other end of the cable, and the iothread
 * too: it calls what the device asked to be called, and only then. */
#include "fuzz.h"
#include "loop.h"
#include <poll.h>
#include <sys/socket.h>

#define PENDING_MAX 128 /* frames on their way to the guest */
#define AT_ONCE 64 /* then the device lets others have the big lock */
#define FRAME_MIN 14
#define TOO_LONG (NET_FRAME_MAX + 1)
#define CONTROL_BYTES 3 /* class, command, on or off */

/* -- the iothread: one fd, one function --------------------------------------------------------------------------------- */

struct lk_loop {
    void *who;
    unsigned queue;
    int fd;
    loop_ready *ready; /* NULL: nothing is watched */
};

static lk_loop iothread;

int loop_watch(lk_loop *loop, void *who, unsigned queue, int fd, loop_ready *ready)
{
    expect(!loop->ready, "the cable is watched twice");
    *loop = (lk_loop){who, queue, fd, ready};
    return 0;
}

int loop_forget(lk_loop *loop, int fd)
{
    expect(loop->ready && loop->fd == fd, "fd %d is forgotten, but was not watched", fd);
    loop->ready = NULL;
    return 0;
}

void loop_wake(lk_loop *loop)
{
    expect(!loop, "nobody is held here, and so nobody is woken");
}

/* -- the cable ----------------------------------------------------------------------------------------------------------- */

typedef struct {
    uint32_t bytes;
    uint8_t data[TOO_LONG + 4];
} frame;

static int peer; /* -1: the cable leads nowhere, or is unplugged there */
static frame pending[PENDING_MAX];
static uint64_t put, live; /* frames put into the cable, ever; the driver is up */

typedef struct {
    uint64_t frames[FRAME_WAYS], got;
    uint8_t promiscuous, all_multicast, gone, watched;
} state;

static state before, expected;
static uint64_t sent[QUEUE_SIZE_MAX]; /* hashes of frames that may arrive, in their order */
static unsigned sent_count;

static uint64_t hash(uint64_t sum, const uint8_t *bytes, uint64_t count)
{
    while (count--)
        sum = (sum ^ *bytes++) * UINT64_C(0x100000001b3);
    return sum;
}

static state look(void)
{
    const lk_net *net = w.device->net;
    state s = {.promiscuous = net->promiscuous,
               .all_multicast = net->all_multicast,
               .gone = net->gone,
               .watched = net->watched};
    memcpy(s.frames, net->frames, sizeof s.frames);
    s.got = s.frames[FRAME_RECEIVED] + s.frames[FRAME_DROPPED_TO_GUEST] + s.frames[FRAME_FILTERED];
    return s;
}

void net_attach(lk_device *device)
{
    int ends[2] = {-1, -1};
    lk_net *net = calloc(1, sizeof *net);
    expect(net, "no memory");
    if (!one_in(8))
        expect(!socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, ends), "socketpair: %s",
               strerror(errno));
    net->fd = ends[0];
    net->capture_fd = -1;
    net->is_socket = 1;
    net->promiscuous = 1;
    memcpy(net->mac, "\x02labki", MAC_BYTES);
    device->net = net;
    peer = ends[1];
    put = live = 0;
    iothread.ready = NULL;
    w.machine->loop = &iothread;
}

static void close_end(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

void net_detach(lk_device *device)
{
    close_end(&peer);
    close_end(&device->net->fd);
    free(device->net);
    w.machine->loop = NULL;
}

void net_check(void)
{
    const lk_net *net = w.device->net;
    expect(net->watched == (iothread.ready != NULL), "the device thinks its cable is watched: %u", net->watched);
    expect(!net->watched || (net->live && net->fd >= 0 && !net->gone), "a cable is watched for nobody");
    expect(look().got <= put, "%lu frames came out of the cable, %lu were put in", look().got, put);
}

/* -- the host's side ----------------------------------------------------------------------------------------------------- */

static void address(uint8_t *to)
{
    static const uint8_t broadcast[MAC_BYTES] = {255, 255, 255, 255, 255, 255};
    uint64_t any = roll();
    memcpy(to, one_in(4) ? broadcast : one_in(3) ? (const uint8_t *)&any : w.device->net->mac, MAC_BYTES);
}

static void put_frame(void)
{
    static const uint32_t odd[] = {0, 1, FRAME_MIN - 1, FRAME_MIN, NET_FRAME_MAX, TOO_LONG, TOO_LONG + 3};
    frame *next = &pending[put % PENDING_MAX];
    if (peer < 0 || put - look().got == PENDING_MAX)
        return;
    next->bytes = one_in(8) ? odd[below(7)] : FRAME_MIN + below(one_in(2) ? 80 : NET_FRAME_MAX - FRAME_MIN + 1);
    for (uint32_t i = 0; i < next->bytes; i++)
        next->data[i] = (uint8_t)(put * 31 + i * 7);
    if (next->bytes >= MAC_BYTES)
        address(next->data);
    put += send(peer, next->data, next->bytes, MSG_DONTWAIT) == (ssize_t)next->bytes;
}

static bool readable(void)
{
    struct pollfd fd = {.fd = iothread.fd, .events = POLLIN};
    return iothread.ready && poll(&fd, 1, 0) == 1;
}

static void foresee_receive(forecast *f, ring_view *v);
static void foresee_watch(forecast *f, ring_view *rx, bool up);

/* What the device writes while no queue runs: into the rx ring. */
static void outside_run(forecast *f, void act(void), bool receives)
{
    before_run first = now(NET_RX);
    ring_view v = view_of(NET_RX);
    foresee_nothing(f);
    net_begin();
    if (receives)
        foresee_receive(f, &v);
    foresee_watch(f, &v, receives ? w.device->net->live : live);
    f->breaks |= w.device->broken; /* and stays it */
    unsigned buffers = f->write_count;
    foresee_used(f, &v, true);
    foresee_certain(f, buffers < SPANS_MAX ? buffers : 0);
    lk_lock_take(w.machine);
    act();
    lk_lock_release(w.machine);
    driver_has_room(NET_RX);
    settle(NET_RX, f, &first);
}

static void follow(void)
{
    lk_net_follow(w.device, (int)live);
}

static void ready(void)
{
    iothread.ready(iothread.who, iothread.queue);
}

/* Frames come, the iothread gives them to the device, the driver comes and goes, the cable is pulled. */
void net_host(void)
{
    static forecast f;
    for (unsigned count = below(4); count; count--)
        put_frame();
    if (one_in(12))
        live = !live || !one_in(4);
    if (one_in(12))
        outside_run(&f, follow, false);
    if (one_in(400))
        close_end(&peer);
    if (!one_in(4) && readable())
        outside_run(&f, ready, true);
}

/* -- a driver's requests --------------------------------------------------------------------------------------------------- */

static unsigned control_request(vring_desc *parts)
{
    uint8_t order[CONTROL_BYTES] = {one_in(8) ? 1 : NET_CTRL_CLASS_RX, (uint8_t)below(one_in(8) ? 256 : 2),
                                    (uint8_t)below(2)};
    uint64_t gpa = header_gpa();
    store(gpa, order, sizeof order);
    parts[0] = (vring_desc){.gpa = gpa, .bytes = one_in(8) ? 1 + below(CONTROL_BYTES + 1) : CONTROL_BYTES};
    parts[1] = buffer(1 + below(2), true);
    return 2;
}

unsigned net_request(unsigned queue, vring_desc *parts)
{
    static const uint32_t odd[] = {FRAME_MIN - 1, FRAME_MIN, NET_FRAME_MAX, TOO_LONG};
    bool writable = queue == NET_RX;
    if (queue == NET_CTRL)
        return control_request(parts);
    unsigned count = 0;
    uint32_t bytes = FRAME_MIN + below(one_in(2) ? 100 : NET_FRAME_MAX - FRAME_MIN + 1);
    if (writable && !one_in(6))
        bytes = NET_FRAME_MAX + below(100);
    else if (one_in(8))
        bytes = odd[below(4)];
    uint32_t first = one_in(2) ? NET_HEADER_BYTES : one_in(2) ? NET_HEADER_BYTES + bytes : 1 + below(NET_HEADER_BYTES);
    parts[count++] = buffer(first, writable);
    if (first < NET_HEADER_BYTES)
        parts[count++] = buffer(NET_HEADER_BYTES - first, writable);
    if (first <= NET_HEADER_BYTES)
        parts[count++] = buffer(bytes, writable);
    return count;
}

/* -- the model: rings that a kick runs ------------------------------------------------------------------------------------- */

void net_begin(void)
{
    before = expected = look();
    sent_count = 0;
}

/* A kick of the rx queue says that there are buffers, no more. */
bool net_wants(unsigned queue)
{
    return queue != NET_RX;
}

/* The first bytes of what the device may read, and that it does. */
static uint64_t gather(forecast *f, const chain *c, uint8_t *to, uint64_t most)
{
    uint64_t count = 0;
    for (unsigned i = 0; i < c->out_count && count < most; i++) {
        uint64_t part = c->out[i].bytes < most - count ? c->out[i].bytes : most - count;
        foresee_read(f, c->out[i].gpa, part);
        load(c->out[i].gpa, to + count, part);
        count += part;
    }
    return count;
}

/* It arrives, or is dropped because the cable is full; without a cable that is certain. */
static bool send_frame(const chain *c, forecast *f)
{
    static uint8_t packet[NET_HEADER_BYTES + NET_FRAME_MAX];
    uint64_t bytes = c->out_bytes - NET_HEADER_BYTES;
    if (c->out_bytes < NET_HEADER_BYTES)
        return false;
    bool good = bytes >= FRAME_MIN && bytes <= NET_FRAME_MAX;
    if (good && peer >= 0 && gather(f, c, packet, sizeof packet))
        sent[sent_count++] = hash(bytes, packet + NET_HEADER_BYTES, bytes);
    foresee_push(f, c, 0);
    return true;
}

static bool obey(const chain *c, forecast *f)
{
    uint8_t order[CONTROL_BYTES] = {0}, answer = NET_CTRL_ERR;
    if (c->out_bytes < CONTROL_BYTES - 1 || !c->in_bytes)
        return false;
    if (gather(f, c, order, sizeof order) == CONTROL_BYTES && order[0] == NET_CTRL_CLASS_RX &&
        order[1] <= NET_CTRL_RX_ALLMULTI) {
        *(order[1] == NET_CTRL_RX_PROMISC ? &expected.promiscuous : &expected.all_multicast) = order[2] != 0;
        answer = NET_CTRL_OK;
    }
    foresee_scatter(f, c, &answer, sizeof answer);
    foresee_push(f, c, sizeof answer);
    return true;
}

bool net_takes(unsigned queue, const chain *c, forecast *f)
{
    return queue == NET_TX ? send_frame(c, f) : obey(c, f);
}

/* The cable is watched exactly while a frame could be given to the guest; the look at the ring may ask for a kick. */
static void foresee_watch(forecast *f, ring_view *rx, bool up)
{
    expected.watched = up && w.device->net->fd >= 0 && !expected.gone && foresee_next(f, rx);
}

void net_after(forecast *f, unsigned queue, ring_view *own, ring_view *other)
{
    if (queue != NET_RX)
        *other = view_of(NET_RX);
    foresee_watch(f, queue == NET_RX ? own : other, w.device->net->live);
}

/* -- the model: frames that come ------------------------------------------------------------------------------------------- */

static bool passes(const uint8_t *to)
{
    static const uint8_t broadcast[MAC_BYTES] = {255, 255, 255, 255, 255, 255};
    if (expected.promiscuous || !memcmp(to, broadcast, MAC_BYTES))
        return true;
    return to[0] & 1 ? expected.all_multicast : !memcmp(to, w.device->net->mac, MAC_BYTES);
}

static int foresee_give(forecast *f, ring_view *v, const frame *next)
{
    static chain c;
    static uint8_t packet[NET_HEADER_BYTES + TOO_LONG + 4];
    if (next->bytes < FRAME_MIN || next->bytes > NET_FRAME_MAX)
        return FRAME_DROPPED_TO_GUEST;
    if (!passes(next->data))
        return FRAME_FILTERED;
    if (foresee_pop(f, v, &c) <= 0)
        return FRAME_DROPPED_TO_GUEST;
    if (c.in_bytes < NET_HEADER_BYTES)
        f->breaks = true;
    else if (c.in_bytes < NET_HEADER_BYTES + next->bytes)
        v->taken--; /* it stays, for a smaller frame */
    if (c.in_bytes < NET_HEADER_BYTES + next->bytes)
        return FRAME_DROPPED_TO_GUEST;
    memcpy(packet + NET_HEADER_BYTES, next->data, next->bytes);
    foresee_scatter(f, &c, packet, NET_HEADER_BYTES + next->bytes);
    foresee_push(f, &c, NET_HEADER_BYTES + next->bytes);
    return FRAME_RECEIVED;
}

static void foresee_receive(forecast *f, ring_view *v)
{
    for (unsigned left = AT_ONCE; left && foresee_next(f, v); left--) {
        const frame *next = &pending[expected.got % PENDING_MAX];
        if (expected.got == put || (peer < 0 && !next->bytes)) {
            expected.gone = peer < 0; /* nothing more, and nobody there */
            return;
        }
        expected.got++;
        expected.frames[foresee_give(f, v, next)]++;
        if (w.device->stopping)
            return;
    }
}

/* -- and what became of it -------------------------------------------------------------------------------------------------- */

/* What arrived at the other end: frames as they were sent, in their order, none of them twice. */
static uint64_t drain(bool certain)
{
    static uint8_t bytes[NET_FRAME_MAX + 2];
    uint64_t count = 0;
    unsigned at = 0;
    ssize_t got;
    while (peer >= 0 && (got = recv(peer, bytes, sizeof bytes, MSG_DONTWAIT)) >= 0) {
        uint64_t sum = hash((uint64_t)got, bytes, (uint64_t)got);
        while (certain && at < sent_count && sent[at] != sum)
            at++;
        expect(!certain || at < sent_count, "a frame of %zd bytes arrived that nobody sent", got);
        at++;
        count++;
    }
    return count;
}

void net_ran(unsigned queue, const forecast *f)
{
    state after = look();
    uint64_t arrived = drain(f->certain), went = after.frames[FRAME_SENT] - before.frames[FRAME_SENT];
    run.frames += went + after.frames[FRAME_RECEIVED] - before.frames[FRAME_RECEIVED];
    expect(peer < 0 || arrived == went, "%lu frames sent, %lu arrived", went, arrived);
    if (!f->certain)
        return;
    uint64_t handled = went + after.frames[FRAME_DROPPED_TO_HOST] - before.frames[FRAME_DROPPED_TO_HOST];
    expect(handled == (queue == NET_TX ? f->served : 0), "queue %u: %lu frames sent or dropped, %u served", queue,
           handled, f->served);
    for (int way = FRAME_RECEIVED; way < FRAME_WAYS; way++)
        expect(way == FRAME_DROPPED_TO_HOST || after.frames[way] == expected.frames[way],
               "%lu frames went way %d, foreseen %lu", after.frames[way], way, expected.frames[way]);
    expect(after.promiscuous == expected.promiscuous && after.all_multicast == expected.all_multicast,
           "the guest hears others than it asked for");
    expect(after.gone == expected.gone, "the cable is gone: %u, foreseen %u", after.gone, expected.gone);
    expect(after.watched == expected.watched, "the cable is watched: %u, foreseen %u", after.watched, expected.watched);
}
