/* Floors that need no guest. Times in ns, or ps where the name says so. */

uint64_t lk_bare_delay_ns(uint64_t delay_ns, unsigned times);
uint64_t lk_bare_event_ps(unsigned times);
uint64_t lk_event_ps(lk_feed *feed, unsigned times);
