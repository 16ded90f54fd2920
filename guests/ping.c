/* A guest on a network: it answers whoever pings it, and can ping somebody itself.
 *
 * Command line: ip=10.0.2.15 irq=msix|poll, and ping=10.0.2.2 count=3 asks=50 wait=TICKS for pings of its own: so many
 * ARP requests until it gives up, and at most so many TSC ticks for each answer. It prints lines of `ping key=value ...`; with pings of its own it ends when they are done,
 * with 0 if all were answered, and with `serve` beside them it goes on to answer others. */
#include "inet.h"
#include "net.h"
#include "options.h"
#include "report.h"
#include "x86.h"

#define DEFAULT_IP 0x0a00020f /* 10.0.2.15 */
#define ASK_TICKS UINT64_C(0x4000000) /* between two ARP requests; some tens of milliseconds */
#define ASK_TIMES 50
#define ECHO_ID 0x6c6b

static uint32_t our_ip = DEFAULT_IP;
static inet_peer peer;

static _Noreturn void fail(const char *what, uint32_t status)
{
    say("ping failed=");
    say(what);
    say_pair("status", status);
    say("\n");
    finish(1);
}

/* Deals with everything that has come. True: one was the reply to ping number `sequence`. */
static bool handle_all(uint32_t sequence)
{
    const uint8_t *frame;
    uint32_t bytes;
    bool replied = false;
    while ((frame = net_receive(&bytes))) {
        inet_echo reply;
        if (inet_handle(our_ip, &peer, frame, bytes, &reply))
            replied |= reply.from == peer.ip && reply.id == ECHO_ID && reply.sequence == sequence;
        net_release();
    }
    return replied;
}

/* The peer may come up after us: ask again and again. */
static bool resolve(uint64_t times)
{
    for (; times && !peer.known; times--) {
        uint64_t deadline = deadline_after(ASK_TICKS);
        inet_ask(our_ip, &peer);
        for (handle_all(0); !peer.known && rdtsc() < deadline; handle_all(0))
            net_wait();
    }
    return peer.known;
}

static bool ping_once(uint16_t sequence, uint64_t ticks)
{
    uint64_t start = rdtsc(), deadline = deadline_after(ticks);
    inet_ping(our_ip, &peer, ECHO_ID, sequence);
    bool replied;
    while (!(replied = handle_all(sequence)) && rdtsc() < deadline)
        net_wait();
    uint64_t taken = rdtsc() - start;
    say("ping");
    say_pair("seq", sequence);
    if (replied)
        say_pair("ticks", taken);
    else
        say(" lost");
    say("\n");
    return replied;
}

/* The exit code: 0 if every ping was answered. */
static uint32_t ping(const char *line)
{
    uint64_t count = option_number(line, "count", 1), replies = 0, ticks = option_number(line, "wait", 0);
    if (!resolve(option_number(line, "asks", ASK_TIMES)))
        fail("arp", AGENT_TIMEOUT);
    for (uint64_t sequence = 0; sequence < count; sequence++)
        replies += ping_once((uint16_t)sequence, ticks);
    say("ping");
    say_pair("replies", replies);
    say("\n");
    return replies != count;
}

static void say_up(uint32_t irq)
{
    say("ping up mac");
    for (int i = 0; i < MAC_BYTES; i++) {
        say_character(i ? ':' : '=');
        say_character("0123456789abcdef"[net_mac[i] >> 4]);
        say_character("0123456789abcdef"[net_mac[i] & 0xf]);
    }
    say_pair("irq", irq);
    say("\n");
}

_Noreturn void guest_main(uint32_t vcpu, uint32_t vcpus, uint32_t info)
{
    const char *line = command_line(info), *to = option(line, "ping");
    if (vcpu)
        for (;;)
            __asm__ volatile("cli; hlt");
    if (option(line, "ip") && !parse_ip(option(line, "ip"), &our_ip))
        fail("ip", AGENT_BAD_ARGUMENT);
    if (to && !parse_ip(to, &peer.ip))
        fail("ping", AGENT_BAD_ARGUMENT);
    uint32_t irq = option_is(line, "irq", "poll") ? IRQ_POLL : IRQ_MSIX, failed = net_up(irq, vcpus);
    if (failed)
        fail("net", failed);
    say_up(irq);
    if (to) {
        uint32_t code = ping(line);
        if (!option_given(line, "serve"))
            finish(code);
    }
    for (;; net_wait())
        handle_all(0);
}
