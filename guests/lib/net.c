/* How do frames get into the rings of a virtio-net device, and out of them?
 *
 * A buffer takes two descriptors, for a legacy device may ask for its header in a descriptor of its own: 2b is the
 * header, 2b+1 the frame. The receive queue holds RX buffers for the device to fill; the TX ones are sent in a circle. */
#include "net.h"
#include "virtio_legacy.h"
#include "x86.h"

enum { RX = 32, TX = 8, FRAME = 16 /* offset of the frame in a buffer */ };

uint8_t net_mac[MAC_BYTES];
static uint32_t held; /* the buffer that net_receive has handed out */
static uint16_t sent; /* frames sent so far, modulo 2^16 as used.idx is; the next uses buffer sent % TX */

static ring *rx(void)
{
    return &the_device.rings[NET_RX];
}

static ring *tx(void)
{
    return &the_device.rings[NET_TX];
}

/* Buffers of the transmit queue follow those of the receive queue. */
static uint64_t buffer_of(const ring *r, uint32_t buffer)
{
    return slot_buffer(buffer + (r->index == NET_TX ? RX : 0));
}

static void describe(ring *r, uint32_t buffer, uint32_t bytes, uint16_t writable)
{
    uint16_t head = (uint16_t)(2 * buffer);
    r->desc[head] =
        (descriptor){buffer_of(r, buffer), NET_HEADER_BYTES, (uint16_t)(DESC_NEXT | writable), (uint16_t)(head + 1)};
    r->desc[head + 1] = (descriptor){buffer_of(r, buffer) + FRAME, bytes, writable, 0};
}

static void add(ring *r, uint32_t buffer)
{
    r->avail->ring[r->added++ % r->num] = (uint16_t)(2 * buffer);
}

static void offer(ring *r)
{
    if (ring_publish(r))
        virtio_kick(&the_device, r->index);
}

/* Device config follows the registers, and MSI-X brings two registers more. */
static void read_mac(void)
{
    uint16_t config = the_device.bar0 + (the_device.irq == IRQ_MSIX ? REG_CONFIG_MSIX : REG_CONFIG_NO_MSIX);
    for (uint16_t i = 0; i < MAC_BYTES; i++)
        net_mac[i] = in8((uint16_t)(config + NET_CONFIG_MAC + i));
}

uint32_t net_up(uint32_t irq, uint32_t vcpus)
{
    uint32_t failed = virtio_negotiate(&the_device, irq, UINT32_C(1) << NET_F_MAC, 0, vcpus);
    if (failed)
        return failed;
    if (the_device.device_id != VIRTIO_DEVICE_NET || the_device.queues <= NET_TX)
        return AGENT_NO_DEVICE;
    if (rx()->num < 2 * RX || tx()->num < 2 * TX)
        return AGENT_NO_QUEUE;
    read_mac();
    ring_quiet(tx());
    for (uint32_t buffer = 0; buffer < RX; buffer++) {
        describe(rx(), buffer, NET_FRAME_MAX, DESC_WRITE);
        add(rx(), buffer);
    }
    virtio_set_status(&the_device, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_DRIVER_OK);
    offer(rx());
    return AGENT_OK;
}

/* What the device says is checked: a head that is no buffer's, or a length that does not fit, is no frame. */
const uint8_t *net_receive(uint32_t *bytes)
{
    while (ring_has_used(rx())) {
        read_barrier(); /* the index before the entry it covers */
        const used_element *element = &rx()->used->ring[rx()->last_used++ % rx()->num];
        uint32_t head = element->id, filled = element->bytes;
        if (head % 2 || head / 2 >= RX)
            continue;
        held = head / 2;
        *bytes = filled - NET_HEADER_BYTES;
        if (filled > NET_HEADER_BYTES && *bytes <= NET_FRAME_MAX)
            return (const uint8_t *)buffer_of(rx(), held) + FRAME;
        net_release();
    }
    return 0;
}

void net_release(void)
{
    add(rx(), held);
    offer(rx());
}

/* The buffers go round, and the device gives them back in the order it got them: the next is free when fewer than TX
 * are out. */
uint8_t *net_frame(void)
{
    uint64_t deadline = deadline_after(0);
    while ((uint16_t)(sent - tx()->used->idx) >= TX) {
        if (rdtsc() > deadline)
            return 0;
        relax();
    }
    return (uint8_t *)buffer_of(tx(), sent % TX) + FRAME;
}

void net_send(uint32_t bytes)
{
    uint32_t buffer = sent++ % TX;
    for (uint32_t i = 0; i < NET_HEADER_BYTES; i++)
        store8(buffer_of(tx(), buffer) + i, 0); /* no offload asked for */
    describe(tx(), buffer, bytes, 0);
    add(tx(), buffer);
    offer(tx());
}

void net_wait(void)
{
    if (!ring_has_used(rx()))
        virtio_relax(&the_device);
}
