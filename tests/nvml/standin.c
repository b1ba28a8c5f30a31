/* A stand-in for libnvidia-ml.so.1 that plays two GPUs, for tests without one.
 *
 * NVML_STANDIN names a script, read anew at each call, so that it can change while the program runs:
 *
 *   fail <function> <device> <code>   the function answers with this nvmlReturn_t
 *   slow <function> <device> <ms>     it takes that long first
 *   lost <device>                     the GPU falls off the bus: every handle to it is dead until the library has been
 *                                     shut down and initialised again, also when the line is gone
 *   hide <device>                     the GPU is not in the list at all
 *   set <device> <field> <number>     what it measures, or `set 1 mig 1`: MIG is enabled
 *
 * `*` stands for any function or device. Functions that concern no device have device -1; the MIG instances of GPU d are
 * the devices 100 * (d + 1) + slot, in slots 0, 2 and 3, of which 2 and 3 are in one GPU instance. NVML_STANDIN_TRACE
 * names a file that gets a line `<pid> <function> <device>` for each call.
 *
 * As in the real library, everything but nvmlInit answers UNINITIALIZED before it, after the last nvmlShutdown, and
 * (stricter than the real one) in a forked child that has not called it; a handle from before an nvmlInit is invalid.
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { OK, UNINITIALIZED, INVALID_ARGUMENT, NOT_SUPPORTED, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7, LOST = 15 };
enum { GPUS = 2, SLOTS = 4 };

static int references;
static pid_t owner;
static uintptr_t generation = 1;
static uintptr_t lost_in[GPUS];

static int is(const char *pattern, const char *text) { return !strcmp(pattern, "*") || !strcmp(pattern, text); }

static int is_device(const char *pattern, int device) { return !strcmp(pattern, "*") || atoi(pattern) == device; }

/* Two zeros end it. */
static char script[4096];

/* Reads the script if it is another than before: whoever changes it puts a file with another inode in its place. */
static void read_script(void) {
    static ino_t read_from;
    const char *path = getenv("NVML_STANDIN");
    struct stat status;
    if (!path || stat(path, &status)) {
        script[0] = 0;
        read_from = 0;
    } else if (status.st_ino != read_from) {
        FILE *file = fopen(path, "re");
        size_t length = file ? fread(script, 1, sizeof script - 2, file) : 0;
        script[length] = script[length + 1] = 0;
        if (file) fclose(file);
        read_from = status.st_ino;
    }
}

/* Looks up `what function device`, or `set device field`; the last line that fits counts. */
static int scripted(const char *what, const char *function, int device, unsigned long long *value) {
    char line[256], verb[16], first[96], second[96];
    int found = 0;
    for (const char *at = script; *at; at += strcspn(at, "\n") + 1) {
        unsigned long long number = 0;
        snprintf(line, sizeof line, "%.*s", (int)strcspn(at, "\n"), at);
        int parts = sscanf(line, "%15s %95s %95s %llu", verb, first, second, &number);
        int fits = parts == 4 && !strcmp(verb, what) &&
                   (strcmp(what, "set") ? is(first, function) && is_device(second, device)
                                        : is_device(first, device) && !strcmp(second, function));
        fits |= parts == 2 && !strcmp(verb, what) && is_device(first, device);
        if (fits) found = 1, *value = number;
    }
    return found;
}

static unsigned long long measured(int device, const char *field, unsigned long long otherwise) {
    unsigned long long value;
    return scripted("set", field, device, &value) ? value : otherwise;
}

static void trace(const char *function, int device) {
    const char *path = getenv("NVML_STANDIN_TRACE");
    int file = path ? open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600) : -1;
    if (file < 0) return;
    dprintf(file, "%d %s %d\n", (int)getpid(), function, device);
    close(file);
}

static int begin(const char *function, int device) {
    unsigned long long value;
    trace(function, device);
    read_script();
    if (scripted("slow", function, device, &value)) {
        struct timespec pause = {value / 1000, value % 1000 * 1000000};
        nanosleep(&pause, NULL);
    }
    return scripted("fail", function, device, &value) ? (int)value : OK;
}

static int initialised(void) { return references > 0 && owner == getpid(); }

static int gpu_of(int device) { return device < 100 ? device : device / 100 - 1; }

static void *handle_of(int device) { return (void *)(generation << 16 | (uintptr_t)(device + 1)); }

static int is_lost(int gpu) {
    unsigned long long value;
    if (scripted("lost", "", gpu, &value)) lost_in[gpu] = generation;
    return lost_in[gpu] == generation;
}

/* What every function of a device begins with. */
static int enter(const char *function, void *handle, int *device) {
    uintptr_t bits = (uintptr_t)handle;
    *device = (int)(bits & 0xffff) - 1;
    if (!initialised()) return UNINITIALIZED;
    if (bits >> 16 != generation) return INVALID_ARGUMENT;
    int problem = begin(function, *device);
    return problem ? problem : is_lost(gpu_of(*device)) ? LOST : OK;
}

#define ENTER(handle)                                    \
    int device, problem = enter(__func__, handle, &device); \
    if (problem) return problem
#define WHOLE_GPU                     \
    if (device >= 100) return NOT_SUPPORTED

static int mig_enabled(int gpu) { return measured(gpu, "mig", 0) != 0; }

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    int problem = begin(__func__, -1);
    if (problem) return problem;
    if (!initialised()) references = 0, owner = getpid(), generation++;
    references++;
    return OK;
}

int nvmlShutdown(void) {
    int problem = begin(__func__, -1);
    if (!initialised()) return UNINITIALIZED;
    references--;
    return problem;
}

int nvmlSystemGetDriverVersion(char *text, unsigned length) {
    int problem = begin(__func__, -1);
    if (!initialised()) return UNINITIALIZED;
    snprintf(text, length, "550.54.15");
    return problem;
}

static int listed(int wanted, int *count) {
    unsigned long long value;
    int found = -1;
    *count = 0;
    for (int gpu = 0; gpu < GPUS; gpu++) {
        if (scripted("hide", "", gpu, &value)) continue;
        if (*count == wanted) found = gpu;
        ++*count;
    }
    return found;
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    int problem = begin(__func__, -1), gpus;
    if (!initialised()) return UNINITIALIZED;
    listed(-1, &gpus);
    *count = (unsigned)gpus;
    return problem;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **handle) {
    read_script();
    int count, gpu = listed((int)index, &count);
    if (!initialised()) return UNINITIALIZED;
    if (gpu < 0) return INVALID_ARGUMENT;
    int problem = begin(__func__, gpu);
    if (problem) return problem;
    if (is_lost(gpu)) return LOST;
    *handle = handle_of(gpu);
    return OK;
}

int nvmlDeviceGetUUID(void *handle, char *text, unsigned length) {
    ENTER(handle);
    if (device < 100)
        snprintf(text, length, "GPU-%c0000000-1111-2222-3333-444444444444", 'a' + device);
    else
        snprintf(text, length, "MIG-%c%d000000-1111-5222-3333-444444444444", 'a' + gpu_of(device), device % 100);
    return OK;
}

int nvmlDeviceGetName(void *handle, char *text, unsigned length) {
    ENTER(handle);
    snprintf(text, length, device < 100 ? "Stand-in %d" : "Stand-in MIG 1g.10gb %d", device);
    return OK;
}

int nvmlDeviceGetMigMode(void *handle, unsigned *current, unsigned *pending) {
    ENTER(handle);
    WHOLE_GPU;
    *current = *pending = (unsigned)mig_enabled(device);
    return OK;
}

int nvmlDeviceGetMaxMigDeviceCount(void *handle, unsigned *count) {
    ENTER(handle);
    *count = SLOTS;
    return OK;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *handle, unsigned slot, void **mig) {
    ENTER(handle);
    if (!mig_enabled(device) || slot == 1 || slot >= SLOTS) return NOT_FOUND;
    *mig = handle_of(100 * (device + 1) + (int)slot);
    return OK;
}

int nvmlDeviceGetGpuInstanceId(void *handle, unsigned *id) {
    ENTER(handle);
    if (device < 100) return NOT_SUPPORTED;
    *id = device % 100 ? 2 : 1;
    return OK;
}

int nvmlDeviceGetComputeInstanceId(void *handle, unsigned *id) {
    ENTER(handle);
    if (device < 100) return NOT_SUPPORTED;
    *id = device % 100 == 3;
    return OK;
}

struct rates { unsigned gpu, memory; };

int nvmlDeviceGetUtilizationRates(void *handle, struct rates *rates) {
    ENTER(handle);
    WHOLE_GPU;
    if (mig_enabled(device)) return NOT_SUPPORTED;
    rates->gpu = (unsigned)measured(device, "utilization", 40 + (unsigned)device);
    rates->memory = (unsigned)measured(device, "memory_busy", 20 + (unsigned)device);
    return OK;
}

struct memory { unsigned long long total, free, used; };

int nvmlDeviceGetMemoryInfo(void *handle, struct memory *memory) {
    ENTER(handle);
    memory->total = measured(device, "total", device < 100 ? 80000000000 : 10000000000);
    memory->used = measured(device, "used", 2000000000 + 1000000000 * (unsigned long long)(device % 100));
    memory->free = memory->total - memory->used;
    return OK;
}

#define FIGURE(function, type, field, otherwise)                 \
    int function(void *handle, type *value) {                    \
        ENTER(handle);                                           \
        WHOLE_GPU;                                               \
        *value = (type)measured(device, field, otherwise);       \
        return OK;                                               \
    }
#define FIGURE_OF(function, type, field, otherwise)              \
    int function(void *handle, unsigned which, type *value) {    \
        ENTER(handle);                                           \
        WHOLE_GPU;                                               \
        char name[64];                                           \
        snprintf(name, sizeof name, field "%u", which);          \
        *value = (type)measured(device, name, (otherwise) + which); \
        return OK;                                               \
    }

FIGURE(nvmlDeviceGetPowerUsage, unsigned, "power", 200000)
FIGURE(nvmlDeviceGetEnforcedPowerLimit, unsigned, "limit", 400000)
FIGURE(nvmlDeviceGetFanSpeed, unsigned, "fan", 30)
FIGURE(nvmlDeviceGetTotalEnergyConsumption, unsigned long long, "energy", 5000000)
FIGURE(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, "reasons", 4)
#ifndef OLD_DRIVER
FIGURE(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, "reasons", 4)
#endif
FIGURE_OF(nvmlDeviceGetTemperature, unsigned, "temperature", 60)
FIGURE_OF(nvmlDeviceGetClockInfo, unsigned, "clock", 1500)
FIGURE_OF(nvmlDeviceGetPcieThroughput, unsigned, "pcie", 5000)

int nvmlDeviceGetTotalEccErrors(void *handle, unsigned kind, unsigned counter, unsigned long long *errors) {
    ENTER(handle);
    WHOLE_GPU;
    if (counter != 0) return INVALID_ARGUMENT;
    *errors = measured(device, kind ? "ecc1" : "ecc0", kind ? 0 : 7);
    return OK;
}

struct field {
    unsigned id, scope;
    long long timestamp, latency;
    unsigned type, problem;
    union { unsigned long long number; } value;
};

int nvmlDeviceGetFieldValues(void *handle, int count, struct field *fields) {
    ENTER(handle);
    WHOLE_GPU;
    for (int i = 0; i < count; i++) {
        int known = (fields[i].id == 138 || fields[i].id == 139) && fields[i].scope == 0xFFFFFFFF;
        fields[i].type = 3;
        fields[i].problem = known ? (unsigned)measured(device, "nvlink_problem", 0) : INVALID_ARGUMENT;
        fields[i].value.number = measured(device, fields[i].id == 138 ? "nvlink_transmit" : "nvlink_receive", 1000);
    }
    return OK;
}

struct process {
    unsigned pid;
    unsigned long long memory;
    unsigned gpu_instance, compute_instance;
};

static int processes(const char *function, void *handle, unsigned *room, struct process *found) {
    int device, problem = enter(function, handle, &device);
    if (problem) return problem;
    unsigned given = *room;
    *room = (unsigned)measured(device, "processes", 2);
    if (*room > 2) *room = 2;
    if (given < *room) return INSUFFICIENT_SIZE;
    struct process all[2] = {{.pid = (unsigned)measured(device, "pid", (unsigned)getpid()),
                              .memory = measured(device, "pid_memory", 500000000)},
                             {.pid = 1, .memory = 300000000}};
    if (found) memcpy(found, all, *room * sizeof *all);
    return OK;
}

int nvmlDeviceGetComputeRunningProcesses_v2(void *handle, unsigned *room, struct process *found) {
    return processes(__func__, handle, room, found);
}

#ifndef OLD_DRIVER
int nvmlDeviceGetComputeRunningProcesses_v3(void *handle, unsigned *room, struct process *found) {
    return processes(__func__, handle, room, found);
}
#endif
