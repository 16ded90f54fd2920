typedef struct {
    uint8_t *host;
    uint64_t bytes;
} lk_memory;

#define CONSOLE_MAX 1048576 /* bytes of the console that are kept */

typedef struct lk_lock lk_lock;
typedef struct lk_console lk_console;
typedef struct lk_loop lk_loop;
typedef struct lk_dirty lk_dirty;

typedef struct lk_machine lk_machine;
struct lk_machine {
    lk_memory memory;
    lk_feed *feed;
    lk_lock *lock;
    lk_console *console;
    lk_loop *loop; /* the iothread's; NULL: there is none */
    void (*set_line)(void *lines, int fd, unsigned pin, int high); /* where a level goes; NULL: nowhere */
    void *lines;
    lk_dirty *dirty; /* which pages were written; NULL: nobody ever asked */
    uint8_t tracking; /* somebody asks */
    uint8_t guarded; /* somebody is held, or scheduled */
    lk_gates *gates;
    uint32_t messages; /* sent by the devices' vectors so far; for who need not ask the kernel whether one came */
};

lk_machine *lk_machine_new(int memfd, uint64_t bytes, uint32_t feed_capacity);
void lk_machine_free(lk_machine *machine);
void *lk_memory_at(const lk_memory *memory, uint64_t gpa, uint64_t bytes);
int lk_memory_write(lk_machine *machine, uint64_t gpa, const void *data, uint64_t bytes);
int lk_memory_clear(lk_machine *machine);

void lk_lock_take(lk_machine *machine);
void lk_lock_release(lk_machine *machine);
int lk_lock_is_mine(const lk_machine *machine);

void lk_console_put(lk_machine *machine, const uint8_t *text, uint32_t bytes);
uint32_t lk_console_read(lk_machine *machine, uint32_t from, char *out, uint32_t most);
void lk_console_clear(lk_machine *machine);
