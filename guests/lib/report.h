/* Text to the console port or the serial one, and the end of the machine. */
#ifndef LABKIT_REPORT_H
#define LABKIT_REPORT_H

#include <stdint.h>

void say_on_serial(void); /* from now on; serial_open() has been called */
void say(const char *text);
void say_character(char character);
void say_number(uint64_t number);
void say_hex(uint64_t number); /* 0x... */
void say_pair(const char *key, uint64_t value); /* " key=value" */
_Noreturn void finish(uint32_t value);          /* exit code (value << 1) | 1 */

#endif
