/* The command line: words of `key=value`, parted by blanks. */
#ifndef LABKIT_OPTIONS_H
#define LABKIT_OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

const char *command_line(uint32_t info);                 /* of the multiboot information at that gpa; "" if none */
const char *after(const char *text, const char *word); /* what follows `word` at the start of `text`; 0: not there */
const char *option(const char *line, const char *key); /* what follows `key=`; 0: not there */
uint64_t option_number(const char *line, const char *key, uint64_t otherwise);
bool option_is(const char *line, const char *key, const char *word);
bool option_given(const char *line, const char *word); /* a word on its own */
const char *parse_number(const char *at,
                         uint64_t *value); /* decimal, or 0x and hex; returns what follows, 0: no number */

#endif
