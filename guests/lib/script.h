/* The agent's steps told in words, for a machine without labkit. */
#ifndef LABKIT_SCRIPT_H
#define LABKIT_SCRIPT_H

#include "mailbox.h"

#define SCRIPT_LINE_MAX 256 /* with its end, where steps are told line by line */

/* Does the steps of `text` one by one: arguments into `box`, then `step(context, command)`, then a line of results.
 * Returns what the guest should end with: 0 all went well, 1 a step failed, 2 the text is no script. */
uint32_t script_run(const char *text, mailbox *box, void (*step)(const void *context, uint32_t command),
                    const void *context);

#endif
