/* What does a guest tell the world? Characters on PORT_CONSOLE; the last word goes to PORT_EXIT. */
#include "report.h"
#include "x86.h"

void say(const char *text)
{
    while (*text)
        out8(PORT_CONSOLE, (uint8_t)*text++);
}

void say_number(uint64_t number)
{
    char digits[21], *at = digits + sizeof digits - 1;
    *at = 0;
    do {
        *--at = (char)('0' + number % 10);
    } while (number /= 10);
    say(at);
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
