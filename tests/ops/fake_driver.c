/* The functions of NVIDIA's driver that tempa calls, without a device: they check what they get and write it down.
 *
 * A "cubin" is text: the name of an entry point, then the bytes of each of its parameters. FAKE_DRIVER_LOG names the file
 * that calls are written to; FAKE_DRIVER_FAILURE, such as "cuLaunchKernel 700", makes one function return a status. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { INVALID_VALUE = 1, INVALID_DEVICE = 101, INVALID_CONTEXT = 201, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700 };
enum { NUM_DEVICES = 2, FIRST_CONTEXT = 0x1000, MAX_SHARED_BYTES = 232448, MAX_PARAMETERS = 64 };

typedef struct {
    char entry[64];
    int num_parameters, num_bytes[MAX_PARAMETERS];
    int shared_bytes;
} Function;

static __thread uintptr_t current;

static void record(const char* format, ...) {
    static FILE* log;
    static int is_open;
    if (!is_open) {
        const char* path = getenv("FAKE_DRIVER_LOG");
        log = path ? fopen(path, "a") : NULL;
        is_open = 1;
    }
    if (!log) return;
    va_list arguments;
    va_start(arguments, format);
    vfprintf(log, format, arguments);
    va_end(arguments);
    fflush(log);
}

static int failure_of(const char* call) {
    static const char* wanted;
    if (!wanted) wanted = getenv("FAKE_DRIVER_FAILURE") ? getenv("FAKE_DRIVER_FAILURE") : "";
    const size_t length = strlen(call);
    return !strncmp(wanted, call, length) && wanted[length] == ' ' ? atoi(wanted + length) : 0;
}

#define RETURN_IF_ASKED_TO_FAIL             \
    do {                                    \
        int status = failure_of(__func__);  \
        if (status) return status;          \
    } while (0)

int cuInit(unsigned flags) {
    RETURN_IF_ASKED_TO_FAIL;
    record("init\n");
    return flags ? INVALID_VALUE : 0;
}

int cuGetErrorName(int status, const char** name) {
    *name = status == INVALID_VALUE     ? "CUDA_ERROR_INVALID_VALUE"
            : status == INVALID_DEVICE  ? "CUDA_ERROR_INVALID_DEVICE"
            : status == NOT_FOUND       ? "CUDA_ERROR_NOT_FOUND"
            : status == ILLEGAL_ADDRESS ? "CUDA_ERROR_ILLEGAL_ADDRESS"
                                        : NULL;
    return *name ? 0 : INVALID_VALUE;
}

int cuGetErrorString(int status, const char** text) {
    *text = status == ILLEGAL_ADDRESS ? "an illegal memory access was encountered" : NULL;
    return *text ? 0 : INVALID_VALUE;
}

int cuDeviceGet(int* device, int index) {
    *device = index + 7;
    return index < 0 || index >= NUM_DEVICES ? INVALID_DEVICE : 0;
}

int cuDevicePrimaryCtxRetain(uintptr_t* context, int device) {
    RETURN_IF_ASKED_TO_FAIL;
    *context = FIRST_CONTEXT + (device - 7);
    return 0;
}

int cuCtxGetCurrent(uintptr_t* context) {
    *context = current;
    return 0;
}

int cuCtxSetCurrent(uintptr_t context) {
    record("current %lx\n", context);
    current = context;
    return 0;
}

int cuLibraryLoadData(void** library, const char* code, int* options, void** values, unsigned num_options,
                      int* library_options, void** library_values, unsigned num_library_options) {
    RETURN_IF_ASKED_TO_FAIL;
    (void)options, (void)values, (void)library_options, (void)library_values;
    if (num_options || num_library_options) return INVALID_VALUE;
    Function* function = calloc(1, sizeof *function);
    int read = 0, length;
    if (sscanf(code, "%63s%n", function->entry, &read) != 1) return INVALID_VALUE;
    while (sscanf(code + read, "%d%n", &function->num_bytes[function->num_parameters], &length) == 1)
        read += length, ++function->num_parameters;
    *library = function;
    return 0;
}

int cuLibraryGetKernel(void** kernel, Function* library, const char* name) {
    *kernel = library;
    return strcmp(library->entry, name) ? NOT_FOUND : 0;
}

int cuKernelGetFunction(void** function, void* kernel) {
    record("load %s in %lx\n", ((Function*)kernel)->entry, current);
    *function = kernel;
    return current ? 0 : INVALID_CONTEXT;
}

int cuFuncSetAttribute(Function* function, int attribute, int value) {
    record("shared %d of attribute %d\n", value, attribute);
    function->shared_bytes = value;
    return value < 0 || value > MAX_SHARED_BYTES ? INVALID_VALUE : 0;
}

int cuLaunchKernel(Function* function, unsigned x, unsigned y, unsigned z, unsigned width, unsigned height,
                   unsigned depth, unsigned shared_bytes, uintptr_t stream, void** parameters, void** extra) {
    RETURN_IF_ASKED_TO_FAIL;
    if (!current) return INVALID_CONTEXT;
    if (extra) return INVALID_VALUE;
    record("launch %s grid %u %u %u block %u %u %u shared %u stream %lx in %lx:", function->entry, x, y, z, width,
           height, depth, shared_bytes, stream, current);
    for (int i = 0; i < function->num_parameters; ++i) {
        record(" ");
        for (int byte = 0; byte < function->num_bytes[i]; ++byte) record("%02x", ((unsigned char*)parameters[i])[byte]);
    }
    record("\n");
    return 0;
}

/* What the map holds is for the driver alone: here its arguments, as 64-bit numbers. */
int cuTensorMapEncodeTiled(uint64_t* map, int element, uint32_t rank, uint64_t address, const uint64_t* sizes,
                           const uint64_t* strides, const uint32_t* sides, const uint32_t* steps, int interleave,
                           int swizzle, int promotion, int fill) {
    RETURN_IF_ASKED_TO_FAIL;
    if ((uintptr_t)map % 64 || interleave || fill) return INVALID_VALUE;
    memset(map, 0, 128);
    *map++ = address;
    *map++ = element | rank << 8 | swizzle << 16 | promotion << 24;
    for (uint32_t i = 0; i < rank; ++i) {
        if (steps[i] != 1) return INVALID_VALUE;
        *map++ = sizes[i];
        *map++ = i ? strides[i - 1] : 0;
        *map++ = sides[i];
    }
    return 0;
}

/* How NVIDIA's own Python package finds the functions. */
int cuGetProcAddress_v2(const char* name, void** address, int version, uint64_t flags, int* status) {
    (void)version, (void)flags;
    Dl_info own;
    *address = dladdr((void*)cuGetProcAddress_v2, &own) ? dlsym(dlopen(own.dli_fname, RTLD_NOW | RTLD_NOLOAD), name) : NULL;
    if (status) *status = *address ? 0 : 1;
    return *address ? 0 : NOT_FOUND;
}
