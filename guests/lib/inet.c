/* What is in a frame, and what is the answer? ARP, IPv4 and ICMP echo, each length checked before what it covers. */
#include "inet.h"
#include "net.h"
#include "options.h"

enum {
    ETH_TO = 0, /* offsets in a frame */
    ETH_FROM = 6,
    ETH_TYPE = 12,
    ETH_BYTES = 14,
    TYPE_IP = 0x0800,
    TYPE_ARP = 0x0806,

    ARP = ETH_BYTES, /* offsets in a frame */
    ARP_OPERATION = ARP + 6,
    ARP_FROM_MAC = ARP + 8,
    ARP_FROM_IP = ARP + 14,
    ARP_TO_MAC = ARP + 18,
    ARP_TO_IP = ARP + 24,
    ARP_END = ARP + 28,
    ARP_REQUEST = 1,
    ARP_REPLY = 2,

    IP = ETH_BYTES, /* offset in a frame; the following are offsets in a packet */
    IP_BYTES = 20,
    IP_LENGTH = 2,
    IP_FRAGMENT = 6,
    IP_TTL = 8,
    IP_PROTOCOL = 9,
    IP_CHECKSUM = 10,
    IP_FROM = 12,
    IP_TO = 16,
    FRAGMENT_MASK = 0x3fff, /* more to come, or not the first */
    PROTOCOL_ICMP = 1,

    ICMP_BYTES = 8, /* offsets in a message */
    ICMP_CODE = 1,
    ICMP_CHECKSUM = 2,
    ICMP_ID = 4,
    ICMP_SEQUENCE = 6,
    ECHO_REPLY = 0,
    ECHO_REQUEST = 8,
    ECHO_DATA_BYTES = 56,
    TTL = 64,
};

static const uint8_t arp_of_ethernet_and_ip[] = {0, 1, TYPE_IP >> 8, TYPE_IP & 0xff, MAC_BYTES, 4};
static const uint8_t everybody[MAC_BYTES] = {0xff, 0xff, 0xff, 0xff, 0xff, 0xff};

static uint16_t get16(const uint8_t *at)
{
    return (uint16_t)(at[0] << 8 | at[1]);
}

static uint32_t get32(const uint8_t *at)
{
    return (uint32_t)get16(at) << 16 | get16(at + 2);
}

static void put16(uint8_t *at, uint32_t value)
{
    at[0] = (uint8_t)(value >> 8);
    at[1] = (uint8_t)value;
}

static void put32(uint8_t *at, uint32_t value)
{
    put16(at, value >> 16);
    put16(at + 2, value);
}

static void copy(uint8_t *to, const uint8_t *from, uint32_t bytes)
{
    for (uint32_t i = 0; i < bytes; i++)
        to[i] = from[i];
}

static bool same(const uint8_t *a, const uint8_t *b, uint32_t bytes)
{
    while (bytes && *a == *b)
        a++, b++, bytes--;
    return !bytes;
}

/* The Internet checksum. Over what already holds its own it is 0. */
static uint16_t checksum(const uint8_t *at, uint32_t bytes)
{
    uint32_t sum = 0;
    for (uint32_t i = 0; i + 1 < bytes; i += 2)
        sum += get16(at + i);
    if (bytes % 2)
        sum += (uint32_t)at[bytes - 1] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

bool parse_ip(const char *text, uint32_t *ip)
{
    *ip = 0;
    for (int i = 0; i < 4; i++) {
        uint64_t part;
        text = text ? parse_number(text, &part) : 0;
        if (!text || part > 0xff || (i < 3 && *text++ != '.'))
            return false;
        *ip = *ip << 8 | (uint32_t)part;
    }
    return *text == ' ' || !*text;
}

static void ethernet(uint8_t *frame, const uint8_t *to, uint32_t type)
{
    copy(frame + ETH_TO, to, MAC_BYTES);
    copy(frame + ETH_FROM, net_mac, MAC_BYTES);
    put16(frame + ETH_TYPE, type);
}

static void send_arp(uint32_t operation, uint32_t ip, const uint8_t *to_mac, uint32_t to_ip)
{
    uint8_t *frame = net_frame();
    if (!frame)
        return;
    ethernet(frame, to_mac, TYPE_ARP);
    copy(frame + ARP, arp_of_ethernet_and_ip, sizeof arp_of_ethernet_and_ip);
    put16(frame + ARP_OPERATION, operation);
    copy(frame + ARP_FROM_MAC, net_mac, MAC_BYTES);
    put32(frame + ARP_FROM_IP, ip);
    copy(frame + ARP_TO_MAC, to_mac, MAC_BYTES);
    put32(frame + ARP_TO_IP, to_ip);
    net_send(ARP_END);
}

void inet_ask(uint32_t ip, const inet_peer *peer)
{
    send_arp(ARP_REQUEST, ip, everybody, peer->ip);
}

static void handle_arp(uint32_t ip, inet_peer *peer, const uint8_t *frame, uint32_t bytes)
{
    if (bytes < ARP_END || !same(frame + ARP, arp_of_ethernet_and_ip, sizeof arp_of_ethernet_and_ip))
        return;
    uint32_t operation = get16(frame + ARP_OPERATION), from = get32(frame + ARP_FROM_IP);
    if (get32(frame + ARP_TO_IP) != ip)
        return;
    if (from == peer->ip && (operation == ARP_REQUEST || operation == ARP_REPLY)) {
        copy(peer->mac, frame + ARP_FROM_MAC, MAC_BYTES);
        peer->known = true;
    }
    if (operation == ARP_REQUEST)
        send_arp(ARP_REPLY, ip, frame + ARP_FROM_MAC, from);
}

/* An IP packet around the ICMP message that stands already in its place, `bytes` of it. */
static void send_icmp(uint8_t *frame, uint32_t ip, const uint8_t *to_mac, uint32_t to_ip, uint32_t bytes)
{
    uint8_t *packet = frame + IP, *message = packet + IP_BYTES;
    ethernet(frame, to_mac, TYPE_IP);
    for (uint32_t i = 0; i < IP_BYTES; i++)
        packet[i] = 0;
    packet[0] = 0x45; /* version 4, a header of five words */
    put16(packet + IP_LENGTH, IP_BYTES + bytes);
    packet[IP_TTL] = TTL;
    packet[IP_PROTOCOL] = PROTOCOL_ICMP;
    put32(packet + IP_FROM, ip);
    put32(packet + IP_TO, to_ip);
    put16(packet + IP_CHECKSUM, checksum(packet, IP_BYTES));
    put16(message + ICMP_CHECKSUM, 0);
    put16(message + ICMP_CHECKSUM, checksum(message, bytes));
    net_send(ETH_BYTES + IP_BYTES + bytes);
}

void inet_ping(uint32_t ip, const inet_peer *peer, uint16_t id, uint16_t sequence)
{
    uint8_t *frame = net_frame();
    if (!frame)
        return;
    uint8_t *message = frame + IP + IP_BYTES;
    message[0] = ECHO_REQUEST;
    message[ICMP_CODE] = 0;
    put16(message + ICMP_ID, id);
    put16(message + ICMP_SEQUENCE, sequence);
    for (uint32_t i = 0; i < ECHO_DATA_BYTES; i++)
        message[ICMP_BYTES + i] = (uint8_t)i;
    send_icmp(frame, ip, peer->mac, peer->ip, ICMP_BYTES + ECHO_DATA_BYTES);
}

static void answer_echo(uint32_t ip, const uint8_t *to_mac, uint32_t to_ip, const uint8_t *message, uint32_t bytes)
{
    uint8_t *frame = net_frame();
    if (!frame)
        return;
    copy(frame + IP + IP_BYTES, message, bytes);
    frame[IP + IP_BYTES] = ECHO_REPLY;
    send_icmp(frame, ip, to_mac, to_ip, bytes);
}

static bool handle_icmp(uint32_t ip, const uint8_t *from_mac, uint32_t from, const uint8_t *message, uint32_t bytes,
                        inet_echo *reply)
{
    if (bytes < ICMP_BYTES || message[ICMP_CODE] || checksum(message, bytes))
        return false;
    if (message[0] == ECHO_REQUEST)
        answer_echo(ip, from_mac, from, message, bytes);
    *reply = (inet_echo){ip, from, get16(message + ICMP_ID), get16(message + ICMP_SEQUENCE)};
    return message[0] == ECHO_REPLY;
}

/* Whole packets for us only. A frame may be longer than its packet, never shorter. */
static bool handle_ip(uint32_t ip, const uint8_t *frame, uint32_t bytes, inet_echo *reply)
{
    const uint8_t *packet = frame + IP;
    uint32_t room = bytes - ETH_BYTES, header = (packet[0] & 0xfu) * 4, length;
    if (room < IP_BYTES || packet[0] >> 4 != 4 || header < IP_BYTES || header > room || checksum(packet, header))
        return false;
    length = get16(packet + IP_LENGTH);
    if (length < header || length > room || get16(packet + IP_FRAGMENT) & FRAGMENT_MASK)
        return false;
    if (get32(packet + IP_TO) != ip || packet[IP_PROTOCOL] != PROTOCOL_ICMP)
        return false;
    /* the answer has no options, so it is never longer than what it answers */
    return handle_icmp(ip, frame + ETH_FROM, get32(packet + IP_FROM), packet + header, length - header, reply);
}

bool inet_handle(uint32_t ip, inet_peer *peer, const uint8_t *frame, uint32_t bytes, inet_echo *reply)
{
    if (bytes <= ETH_BYTES || (!same(frame, net_mac, MAC_BYTES) && !same(frame, everybody, MAC_BYTES)))
        return false;
    uint32_t type = get16(frame + ETH_TYPE);
    if (type == TYPE_ARP)
        handle_arp(ip, peer, frame, bytes);
    return type == TYPE_IP && handle_ip(ip, frame, bytes, reply);
}
