/* As much of ARP, IPv4 and ICMP as a ping takes. Addresses are numbers: 10.0.2.15 is 0x0a00020f. */
#ifndef LABKIT_INET_H
#define LABKIT_INET_H

#include <stdbool.h>
#include <stdint.h>

#include "abi.h"

typedef struct {
    uint32_t ip;
    uint8_t mac[MAC_BYTES];
    bool known; /* mac has been learned */
} inet_peer;

typedef struct {
    uint32_t ip, from;
    uint16_t id, sequence;
} inet_echo; /* an echo reply that came for us */

bool parse_ip(const char *text, uint32_t *ip); /* false: not four numbers below 256, parted by dots */

/* Deals with one frame: answers ARP and echo requests for `ip`, learns the peer's mac. True: it was an echo reply. */
bool inet_handle(uint32_t ip, inet_peer *peer, const uint8_t *frame, uint32_t bytes, inet_echo *reply);

void inet_ask(uint32_t ip, const inet_peer *peer); /* who has peer->ip? */
void inet_ping(uint32_t ip, const inet_peer *peer, uint16_t id, uint16_t sequence);

#endif
