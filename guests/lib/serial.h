/* The first serial port, polled: a line in, characters out. */
#ifndef LABKIT_SERIAL_H
#define LABKIT_SERIAL_H

#include <stdbool.h>
#include <stdint.h>

bool serial_open(void); /* false: there is no such port */
void serial_send(char character);
bool serial_line(char *line, uint32_t room); /* waits for the end of one, which is cut off; false: it had no room */

#endif
