/* When does a local APIC's timer interrupt? It counts down from the initial count, on a bus of 1 GHz, divided.
 *
 * Nothing ticks: what is kept is when the count will be over, and the count is made from it when somebody looks. */
#include "irqchip.h"

/* The shortest period, as KVM's: a guest that asks for less would have its host do nothing but interrupt it. */
#define PERIOD_MIN_NS 200000

/* The counts go by 2, 4 ... 128, and by 1, for the values 0 to 7 of the register's bits 0, 1 and 3. */
static unsigned divide_shift(uint32_t divide)
{
    return ((divide & 3) + (divide >> 1 & 4) + 1) % 8;
}

static uint64_t count_ns(const local_apic *apic)
{
    return (uint64_t)apic_value(apic, APIC_TIMER_INITIAL) << divide_shift(apic_value(apic, APIC_TIMER_DIVIDE));
}

static uint64_t period_ns(const local_apic *apic)
{
    uint64_t asked = count_ns(apic);
    return asked < PERIOD_MIN_NS ? PERIOD_MIN_NS : asked;
}

static int is_periodic(const local_apic *apic)
{
    return apic_value(apic, APIC_LVT_TIMER) & LVT_TIMER_PERIODIC;
}

/* The current count; 0 when it is over. */
uint32_t apic_timer_left(const local_apic *apic, uint64_t now_ns)
{
    if (apic->timer_end_ns == NO_TIMER)
        return 0;
    return (uint32_t)((apic->timer_end_ns - now_ns) >> divide_shift(apic_value(apic, APIC_TIMER_DIVIDE)));
}

/* The initial count was written: from now on; 0 stops. */
void apic_timer_start(local_apic *apic, uint64_t now_ns)
{
    uint64_t length = is_periodic(apic) ? period_ns(apic) : count_ns(apic);
    apic->timer_end_ns = count_ns(apic) ? now_ns + length : NO_TIMER;
}

/* Another divider: the current count stays, and goes on at the new pace. */
void apic_timer_divided(local_apic *apic, uint32_t before, uint64_t now_ns)
{
    if (apic->timer_end_ns == NO_TIMER)
        return;
    uint64_t left = (apic->timer_end_ns - now_ns) >> divide_shift(before);
    apic->timer_end_ns = now_ns + (left << divide_shift(apic_value(apic, APIC_TIMER_DIVIDE)));
}

/* The end of the count interrupts, unless the LVT masks it. Periods that went by together interrupt once. */
void apic_timer_expire(local_apic *apic, uint64_t now_ns)
{
    if (now_ns < apic->timer_end_ns || apic->timer_end_ns == NO_TIMER)
        return;
    uint64_t late = now_ns - apic->timer_end_ns;
    apic->timer_end_ns = is_periodic(apic) ? now_ns + period_ns(apic) - late % period_ns(apic) : NO_TIMER;
    uint32_t lvt = apic_value(apic, APIC_LVT_TIMER);
    interrupt ended = {.vector = (uint8_t)lvt, .mode = DELIVER_FIXED};
    if (!(lvt & WORD_MASKED))
        apic_take(apic, &ended);
}

/* When it interrupts next; NO_TIMER: not at all. */
uint64_t apic_timer_next(const local_apic *apic)
{
    return apic_value(apic, APIC_LVT_TIMER) & WORD_MASKED ? NO_TIMER : apic->timer_end_ns;
}
