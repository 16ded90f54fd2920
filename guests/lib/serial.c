/* How does a guest talk with whoever is at the other end of COM1? A 16550, polled; a guest of labkit itself has none. */
#include "serial.h"
#include "x86.h"

#define NO_UART 0xff /* what a port that nobody claims reads */

static bool has(uint8_t bit)
{
    return in8(PORT_SERIAL + UART_LINE_STATUS) & bit;
}

/* No interrupts, 115200 baud, 8 bits, no parity, 1 stop bit, FIFOs on and empty. */
bool serial_open(void)
{
    if (in8(PORT_SERIAL + UART_LINE_STATUS) == NO_UART)
        return false;
    out8(PORT_SERIAL + UART_INTERRUPT_ENABLE, 0);
    out8(PORT_SERIAL + UART_LINE_CONTROL, UART_DIVISOR_LATCH);
    out8(PORT_SERIAL + UART_DIVISOR_LOW, 1);
    out8(PORT_SERIAL + UART_DIVISOR_HIGH, 0);
    out8(PORT_SERIAL + UART_LINE_CONTROL, UART_8_BITS);
    out8(PORT_SERIAL + UART_FIFO_CONTROL, UART_FIFO_ON_AND_EMPTY);
    return true;
}

void serial_send(char character)
{
    while (!has(UART_CAN_SEND))
        relax();
    out8(PORT_SERIAL + UART_DATA, (uint8_t)character);
}

static char receive(void)
{
    while (!has(UART_HAS_RECEIVED))
        relax();
    return (char)in8(PORT_SERIAL + UART_DATA);
}

/* What has no room is read all the same, for the next line begins after it. */
bool serial_line(char *line, uint32_t room)
{
    uint32_t length = 0;
    for (char c = receive(); c != '\n'; c = receive()) {
        if (length < room)
            line[length] = c;
        length++;
    }
    line[length < room ? length : 0] = 0;
    return length < room;
}
