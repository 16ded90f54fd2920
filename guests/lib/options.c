/* What was the guest told on its command line? */
#include "options.h"
#include "x86.h"

#define INFO_FLAGS 0
#define INFO_CMDLINE 16 /* offsets in the multiboot information */

const char *command_line(uint32_t info)
{
    if (!info || !(load32(info + INFO_FLAGS) & MULTIBOOT_INFO_CMDLINE))
        return "";
    return (const char *)(uint64_t)load32(info + INFO_CMDLINE);
}

const char *after(const char *text, const char *word)
{
    while (*word)
        if (*text++ != *word++)
            return 0;
    return text;
}

const char *option(const char *line, const char *key)
{
    for (; *line; line++) {
        const char *value = after(line, key);
        if (value && *value == '=')
            return value + 1;
        while (*line && *line != ' ')
            line++;
        if (!*line)
            break;
    }
    return 0;
}

static int digit(char c, unsigned base)
{
    int value = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    return value < (int)base ? value : -1;
}

const char *parse_number(const char *at, uint64_t *value)
{
    const char *hex = after(at, "0x");
    const char *start = hex ? hex : at;
    unsigned base = hex ? 16 : 10;
    *value = 0;
    for (at = start; digit(*at, base) >= 0; at++)
        *value = *value * base + (uint64_t)digit(*at, base);
    return at == start ? 0 : at;
}

uint64_t option_number(const char *line, const char *key, uint64_t otherwise)
{
    const char *text = option(line, key);
    uint64_t value;
    return text && parse_number(text, &value) ? value : otherwise;
}

bool option_given(const char *line, const char *word)
{
    while (*line) {
        const char *end = after(line, word);
        if (end && (*end == ' ' || !*end))
            return true;
        while (*line && *line != ' ')
            line++;
        while (*line == ' ')
            line++;
    }
    return false;
}

bool option_is(const char *line, const char *key, const char *word)
{
    const char *value = option(line, key);
    const char *end = value ? after(value, word) : 0;
    return end && (*end == ' ' || !*end);
}
