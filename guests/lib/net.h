/* A virtio-net device: frames in, frames out. One vCPU drives it. */
#ifndef LABKIT_NET_H
#define LABKIT_NET_H

#include <stdbool.h>
#include <stdint.h>

#include "abi.h"

extern uint8_t net_mac[MAC_BYTES]; /* our address, from the device's config */

uint32_t net_up(uint32_t irq, uint32_t vcpus); /* to DRIVER_OK, with buffers posted; AGENT_* */

/* The next frame that has come, and its bytes; 0: none. It stays in place until net_release. */
const uint8_t *net_receive(uint32_t *bytes);
void net_release(void);

/* Room for a frame of NET_FRAME_MAX bytes, then send it. 0: the device has given no buffer back in time. */
uint8_t *net_frame(void);
void net_send(uint32_t bytes);

void net_wait(void); /* a moment, or until something comes */

#endif
