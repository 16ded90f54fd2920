/* The Unicorn library, as far as it is used. It is not linked: whoever has it names its file, and the functions are looked
 * up in it (unicorn.c); the core builds and works without. */
#ifndef LABKIT_UNICORN_H
#define LABKIT_UNICORN_H

#include "core.h"

#define EXCEPTION_GP 13

typedef struct uc_engine uc_engine; /* one CPU */
typedef struct uc_context uc_context; /* what is in it, as opaque bytes */

typedef struct {
    uint16_t selector;
    uint64_t base;
    uint32_t limit, flags;
} uc_table; /* GDTR, IDTR, TR */

typedef struct {
    uint32_t index;
    uint64_t value;
} uc_msr;

typedef uint64_t uc_mmio_read(uc_engine *cpu, uint64_t offset, unsigned width, void *user);
typedef void uc_mmio_write(uc_engine *cpu, uint64_t offset, unsigned width, uint64_t value, void *user);

typedef struct {
    lk_unicorn_numbers number;
    int (*open)(int arch, int mode, uc_engine **cpu);
    int (*close)(uc_engine *cpu);
    int (*ctl)(uc_engine *cpu, int control, ...);
    int (*mem_map_ptr)(uc_engine *cpu, uint64_t gpa, uint64_t bytes, uint32_t may, void *host);
    int (*mem_unmap)(uc_engine *cpu, uint64_t gpa, uint64_t bytes);
    int (*mmio_map)(uc_engine *cpu, uint64_t gpa, uint64_t bytes, uc_mmio_read *read, void *read_user,
                    uc_mmio_write *write, void *write_user);
    int (*hook_add)(uc_engine *cpu, size_t *hook, int kind, void *function, void *user, uint64_t begin, uint64_t end,
                    ...);
    int (*reg_read)(uc_engine *cpu, int which, void *value);
    int (*reg_write)(uc_engine *cpu, int which, const void *value);
    int (*emu_start)(uc_engine *cpu, uint64_t begin, uint64_t until, uint64_t timeout_us, size_t count);
    int (*emu_stop)(uc_engine *cpu);
    int (*context_alloc)(uc_engine *cpu, uc_context **context);
    int (*context_save)(uc_engine *cpu, uc_context *context);
    int (*context_restore)(uc_engine *cpu, uc_context *context);
    int (*context_free)(uc_context *context);
    size_t (*context_size)(uc_engine *cpu);
} unicorn_library;

extern unicorn_library unicorn; /* filled once, by lk_unicorn_load */

uc_engine *unicorn_open(void);
void unicorn_forget_code(uc_engine *cpu);
void unicorn_forget_memory(uc_engine *cpu);
uint64_t unicorn_read(uc_engine *cpu, int which);
int unicorn_write(uc_engine *cpu, int which, uint64_t value);
uint64_t unicorn_read_msr(uc_engine *cpu, uint32_t index);
void unicorn_write_msr(uc_engine *cpu, uint32_t index, uint64_t value);
uint32_t unicorn_take_error_code(uc_engine *cpu);

/* A segment register in a saved context. */
typedef struct {
    uint32_t selector;
    uint64_t base;
    uint32_t limit, flags;
} uc_segment;

enum { SEGMENT_ES, SEGMENT_CS, SEGMENT_SS, SEGMENT_DS, SEGMENT_FS, SEGMENT_GS };

uc_segment *unicorn_segments(uc_engine *cpu, const uc_context *flat, uc_context *context);

#endif
