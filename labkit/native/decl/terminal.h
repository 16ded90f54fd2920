lk_terminal *lk_terminal_new(void);
void lk_terminal_free(lk_terminal *terminal);
uint64_t lk_terminal_written(const lk_terminal *terminal);
uint32_t lk_terminal_read(const lk_terminal *terminal, uint64_t from, char *out, uint32_t most);
uint32_t lk_terminal_waiting(const lk_terminal *terminal);
int lk_terminal_type(lk_terminal *terminal, const char *text, uint32_t bytes);

#define TERMINAL_OUTPUT_MAX 1048576 /* bytes kept of what the guest wrote: the newest */
#define TERMINAL_INPUT_MAX 65536 /* bytes typed that the guest has not taken */
