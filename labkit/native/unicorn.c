/* Where is the Unicorn library, and what does it hide? Its functions by name, and two things it does not tell.
 *
 * It executes instructions, but delivers nothing: an exception is told by its number alone, without its error code, and
 * what was raised is remembered for ever, so that a later exception looks like a fault inside a fault. Both stand in the
 * CPU's saved context, at places that are no part of its interface. They are found by experiment: two CPUs fault, in a
 * way that is known, and the bytes that tell of it are looked for. */
#include "unicorn.h"
#include <dlfcn.h>

unicorn_library unicorn;

static struct {
    size_t error_code, raised; /* offsets in a saved context; 0: not found */
} hidden;

static const struct {
    const char *name;
    void **function;
} functions[] = {
#define FUNCTION(name) {"uc_" #name, (void **)&unicorn.name}
    FUNCTION(open),         FUNCTION(close),           FUNCTION(ctl),          FUNCTION(mem_map_ptr),
    FUNCTION(mem_unmap),    FUNCTION(mmio_map),        FUNCTION(hook_add),     FUNCTION(reg_read),
    FUNCTION(reg_write),    FUNCTION(emu_start),       FUNCTION(emu_stop),     FUNCTION(context_alloc),
    FUNCTION(context_save), FUNCTION(context_restore), FUNCTION(context_free), FUNCTION(context_size),
#undef FUNCTION
};

static int control(uc_engine *cpu, int what, int arguments, int value)
{
    const int arguments_shift = 26, direction_shift = 30;
    return unicorn.ctl(cpu, what | arguments << arguments_shift | unicorn.number.CTL_IO_WRITE << direction_shift,
                       value);
}

/* A CPU that stops for no address: its caller's hooks stop it. NULL if the library cannot. */
uc_engine *unicorn_open(void)
{
    uc_engine *cpu = NULL;
    if (unicorn.open(unicorn.number.ARCH_X86, unicorn.number.MODE_64, &cpu))
        return NULL;
    control(cpu, unicorn.number.CTL_UC_USE_EXITS, 1, 1);
    return cpu;
}

/* Guest memory was written behind its back. */
void unicorn_forget_code(uc_engine *cpu)
{
    control(cpu, unicorn.number.CTL_TB_FLUSH, 0, 0);
}

/* That, and its page tables. */
void unicorn_forget_memory(uc_engine *cpu)
{
    unicorn_forget_code(cpu);
    control(cpu, unicorn.number.CTL_TLB_FLUSH, 0, 0);
}

uint64_t unicorn_read(uc_engine *cpu, int which)
{
    uint64_t value = 0;
    unicorn.reg_read(cpu, which, &value);
    return value;
}

int unicorn_write(uc_engine *cpu, int which, uint64_t value)
{
    return unicorn.reg_write(cpu, which, &value);
}

uint64_t unicorn_read_msr(uc_engine *cpu, uint32_t index)
{
    uc_msr msr = {.index = index};
    unicorn.reg_read(cpu, unicorn.number.X86_REG_MSR, &msr);
    return msr.value;
}

void unicorn_write_msr(uc_engine *cpu, uint32_t index, uint64_t value)
{
    uc_msr msr = {index, value};
    unicorn.reg_write(cpu, unicorn.number.X86_REG_MSR, &msr);
}

/* -- what it hides ------------------------------------------------------------------------------------------------- */

/* The error code of the exception that was just told; the next one is a first one again. */
uint32_t unicorn_take_error_code(uc_engine *cpu)
{
    const int nothing = -1;
    uint32_t error_code = 0;
    uc_context *context;
    if (!hidden.raised || unicorn.context_alloc(cpu, &context))
        return 0;
    unicorn.context_save(cpu, context);
    memcpy(&error_code, (char *)context + hidden.error_code, sizeof error_code);
    memcpy((char *)context + hidden.raised, &nothing, sizeof nothing);
    unicorn.context_restore(cpu, context);
    unicorn.context_free(context);
    return error_code;
}

static int is_flat(const uc_segment *segment, int is_code)
{
    return !segment->base && segment->limit == UINT32_MAX && (segment->flags >> 11 & 1) == (unsigned)is_code;
}

/* The six segment registers in `context`, which is as large as `flat`: one in which all of them are flat. They are looked
 * for there. NULL: not found. */
uc_segment *unicorn_segments(uc_engine *cpu, const uc_context *flat, uc_context *context)
{
    enum { COUNT = SEGMENT_GS + 1 };
    size_t size = unicorn.context_size(cpu);
    for (size_t at = 0; at + COUNT * sizeof(uc_segment) <= size; at += sizeof(uint64_t)) {
        const uc_segment *segments = (const uc_segment *)((const char *)flat + at);
        int found = 1;
        for (int i = 0; i < COUNT; i++)
            found &= is_flat(&segments[i], i == SEGMENT_CS);
        if (found)
            return (uc_segment *)((char *)context + at);
    }
    return NULL;
}

static void note(uc_engine *cpu, uint32_t number, void *seen)
{
    *(uint32_t *)seen = number;
    unicorn.emu_stop(cpu);
}

/* A CPU of its own loads a selector beyond its table: a general protection fault whose error code is the selector. The
 * contexts before and after it, as copies of `size` bytes; 0 if it went as it should. */
static int fault_with(uint16_t selector, char **before, char **after, size_t *size)
{
    const uint64_t code_at = 0x1000;
    const uint8_t code[] = {0x66, 0xb8, (uint8_t)selector, (uint8_t)(selector >> 8),
                            0x8e, 0xd8}; /* mov ax; mov ds, ax */
    uint32_t seen = 0;
    size_t hook;
    uc_context *context = NULL;
    uc_engine *cpu = unicorn_open();
    uint8_t *ram = mmap(NULL, 2 * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    *before = *after = NULL;
    if (cpu && ram != MAP_FAILED &&
        !unicorn.mem_map_ptr(cpu, 0, 2 * PAGE_BYTES, (uint32_t)unicorn.number.PROT_ALL, ram) &&
        !unicorn.context_alloc(cpu, &context)) {
        memcpy(ram + code_at, code, sizeof code);
        *size = unicorn.context_size(cpu);
        *before = malloc(*size);
        *after = malloc(*size);
        unicorn.hook_add(cpu, &hook, unicorn.number.HOOK_INTR, (void *)note, &seen, 1, 0);
        unicorn.context_save(cpu, context);
        if (*before)
            memcpy(*before, context, *size);
        unicorn.emu_start(cpu, code_at, 0, 0, 0);
        unicorn.context_save(cpu, context);
        if (*after)
            memcpy(*after, context, *size);
    }
    if (context)
        unicorn.context_free(context);
    if (cpu)
        unicorn.close(cpu);
    if (ram != MAP_FAILED)
        munmap(ram, 2 * PAGE_BYTES);
    return seen == EXCEPTION_GP && *before && *after ? 0 : -1;
}

static int int_at(const char *bytes, size_t offset)
{
    int value;
    memcpy(&value, bytes + offset, sizeof value);
    return value;
}

/* The one place where both CPUs have `was` before, and after it what each of them was given; 0 if it is not one. */
static size_t place(char *const before[2], char *const after[2], size_t size, int was, const int is[2], size_t begin)
{
    size_t found = 0;
    for (size_t at = begin; at + sizeof(int) <= size; at += sizeof(int))
        if (int_at(before[0], at) == was && int_at(before[1], at) == was && int_at(after[0], at) == is[0] &&
            int_at(after[1], at) == is[1]) {
            if (found)
                return 0;
            found = at;
        }
    return found;
}

static void find_hidden(void)
{
    enum { NEAR_BYTES = 256 }; /* the two stand in one group of fields, far from the general registers */
    const uint16_t selectors[2] = {0x1230, 0x4560};
    const int codes[2] = {selectors[0], selectors[1]}, numbers[2] = {EXCEPTION_GP, EXCEPTION_GP};
    char *before[2] = {0}, *after[2] = {0};
    size_t size = 0;
    int failed = fault_with(selectors[0], &before[0], &after[0], &size);
    failed |= fault_with(selectors[1], &before[1], &after[1], &size);
    if (!failed) {
        size_t raised = place(before, after, size, -1, numbers, 0);
        size_t error_code = raised < NEAR_BYTES ? 0 : place(before, after, raised, 0, codes, raised - NEAR_BYTES);
        if (error_code) {
            hidden.raised = raised;
            hidden.error_code = error_code;
        }
    }
    for (int i = 0; i < 2; i++) {
        free(before[i]);
        free(after[i]);
    }
}

/* 0; -ENOENT: there is no such library; -ENOSYS: it lacks a function, or is not the library that this code knows. */
int lk_unicorn_load(const char *path, const lk_unicorn_numbers *numbers)
{
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library)
        return -ENOENT;
    for (size_t i = 0; i < sizeof functions / sizeof *functions; i++)
        if (!(*functions[i].function = dlsym(library, functions[i].name)))
            return -ENOSYS;
    unicorn.number = *numbers;
    if (!hidden.raised)
        find_hidden();
    return hidden.raised ? 0 : -ENOSYS;
}
