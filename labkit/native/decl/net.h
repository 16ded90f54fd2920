/* lk_net: the cable behind a virtio-net device, what the guest wants to hear, and what became of its frames.
 * The caller owns it and both fds, and keeps them for as long as the device may run. */

#define FRAME_WAYS 5 /* FRAME_SENT to FRAME_FILTERED */

struct lk_net {
    int fd; /* the cable: one frame a read, one a write, never waiting; -1: it leads nowhere */
    int capture_fd; /* a pcap file; -1: none */
    uint64_t capture_bytes; /* its length, whole records */
    uint64_t not_captured; /* frames the file had no room for */
    uint64_t frames[FRAME_WAYS];
    uint8_t mac[MAC_BYTES];
    uint8_t is_socket; /* the cable is a socket: a peer that is gone must not raise SIGPIPE */
    uint8_t live; /* the machine runs and DRIVER_OK is set */
    uint8_t watched; /* the iothread waits for frames */
    uint8_t gone; /* nothing will come any more */
    uint8_t promiscuous, all_multicast; /* set through the control queue */
    uint8_t packet[1525]; /* the one on its way: NET_HEADER_BYTES, NET_FRAME_MAX, and one that makes it too long */
};

void lk_net_follow(lk_device *device, int live);
