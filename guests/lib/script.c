/* How is a step told in words? `name:argument:argument`, steps parted by commas; see ../README.md. */
#include "script.h"
#include "options.h"
#include "report.h"
#include "virtio_legacy.h"

enum { WELL, STEP_FAILED, NO_SCRIPT };

typedef struct {
    const char *name;
    uint32_t command;
    const char *results; /* their names, in the order of the mailbox */
} known_step;

static const known_step known[] = {
    {"negotiate", CMD_NEGOTIATE, "offered accepted queues bar0 status"},
    {"set_status", CMD_SET_STATUS, "status"},
    {"driver_ok", CMD_DRIVER_OK, "status"},
    {"reset", CMD_RESET, "status"},
    {"bus_master", CMD_BUS_MASTER, "command"},
    {"add", CMD_ADD, "head slot buffer"},
    {"add_buffers", CMD_ADD_BUFFERS, "head slot buffer"},
    {"publish", CMD_PUBLISH, "avail_idx published wanted"},
    {"kick", CMD_KICK, "ticks"},
    {"wait", CMD_WAIT, "reaped head used_len status interrupts slot"},
    {"request", CMD_REQUEST, "status used_len ticks interrupts"},
    {"port_in", CMD_PORT_IN, "value"},
    {"port_out", CMD_PORT_OUT, ""},
    {"pci_read", CMD_PCI_READ, "value"},
    {"pci_write", CMD_PCI_WRITE, ""},
    {"load", CMD_LOAD, "value"},
    {"store", CMD_STORE, ""},
    {"storm", CMD_STORM, "ticks completed errors kicks interrupts"},
    {"fault", CMD_FAULT, "value"},
};

static const struct {
    const char *word;
    uint64_t value;
} words[] = {
    {"poll", IRQ_POLL},     {"msix", IRQ_MSIX},       {"intx", IRQ_INTX}, {"read", BLK_T_IN}, {"write", BLK_T_OUT},
    {"flush", BLK_T_FLUSH}, {"get_id", BLK_T_GET_ID}, {"on", 1},          {"off", 0},
};

#define COUNT(array) (sizeof(array) / sizeof *(array))

/* A number, a word for one, or bar0+number: the device's ports are not where they are under labkit. */
static const char *parse_argument(const char *at, uint64_t *value)
{
    const char *offset = after(at, "bar0+"), *end;
    if (offset) {
        end = parse_number(offset, value);
        *value += the_device.bar0;
        return end;
    }
    for (uint32_t i = 0; i < COUNT(words); i++) {
        if ((end = after(at, words[i].word))) {
            *value = words[i].value;
            return end;
        }
    }
    return parse_number(at, value);
}

/* Arguments that are not given are 0. Returns what follows the step; 0: it cannot be read. */
static const char *parse_arguments(const char *at, uint64_t *args)
{
    for (uint32_t i = 0; i < MB_SLOTS; i++)
        args[i] = 0;
    for (uint32_t i = 0; at && *at == ':'; i++)
        at = i < MB_SLOTS ? parse_argument(at + 1, &args[i]) : 0;
    return at && (*at == ',' || *at == ' ' || !*at) ? at : 0;
}

static const known_step *find_step(const char *at, const char **end)
{
    for (uint32_t i = 0; i < COUNT(known); i++) {
        *end = after(at, known[i].name);
        if (*end && (**end == ':' || **end == ',' || **end == ' ' || !**end))
            return &known[i];
    }
    return 0;
}

/* One word of `names` for each result. */
static void say_results(const known_step *step, const mailbox *box)
{
    const char *name = step->results;
    say("step ");
    say(step->name);
    say_pair("answer", box->status);
    for (uint32_t i = 0; *name; i++) {
        say(" ");
        for (; *name && *name != ' '; name++)
            say_character(*name);
        say("=");
        say_hex(box->results[i]);
        name += *name == ' ';
    }
    say("\n");
}

static uint32_t no_script(const char *at)
{
    say("no step: ");
    say(at);
    say("\n");
    return NO_SCRIPT;
}

uint32_t script_run(const char *text, mailbox *box, void (*step)(const void *context, uint32_t command),
                    const void *context)
{
    uint32_t outcome = WELL;
    while (*text && *text != ' ') {
        const char *at = text;
        const known_step *next = find_step(at, &text);
        if (!next || !(text = parse_arguments(text, box->args)))
            return no_script(at);
        for (uint32_t i = 0; i < MB_SLOTS; i++)
            box->results[i] = 0; /* a step writes what it names, and nothing if it fails */
        step(context, next->command);
        say_results(next, box);
        if (box->status)
            outcome = STEP_FAILED;
        text += *text == ',';
    }
    return outcome;
}
