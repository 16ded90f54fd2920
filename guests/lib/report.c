/* What does a guest tell the world? Characters on PORT_CONSOLE, or on the serial port if it is spoken to there; the
 * last word goes to PORT_EXIT. */
#include "report.h"
#include "serial.h"
#include "x86.h"

static bool on_serial;

void say_on_serial(void)
{
    on_serial = true;
}

void say_character(char character)
{
    if (on_serial)
        serial_send(character);
    else
        out8(PORT_CONSOLE, (uint8_t)character);
}

void say(const char *text)
{
    while (*text)
        say_character(*text++);
}

static void say_in_base(uint64_t number, unsigned base)
{
    char digits[21], *at = digits + sizeof digits - 1;
    *at = 0;
    do {
        *--at = "0123456789abcdef"[number % base];
    } while (number /= base);
    say(at);
}

void say_number(uint64_t number)
{
    say_in_base(number, 10);
}

void say_hex(uint64_t number)
{
    say("0x");
    say_in_base(number, 16);
}

void say_pair(const char *key, uint64_t value)
{
    say(" ");
    say(key);
    say("=");
    say_number(value);
}

_Noreturn void finish(uint32_t value)
{
    out32(PORT_EXIT, value);
    for (;;)
        __asm__ volatile("cli; hlt");
}
