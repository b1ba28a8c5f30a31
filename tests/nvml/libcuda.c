/* A CUDA driver, stood in for: it copies when the test says so, fails when it is told to, and has streams that capture.
 *
 * A copy takes what is there at the call, as a stream would: later changes are behind it. It lands at once; when `land`
 * is called; or, with a delay, by a thread of its own, which dies with the process as a device's work does.
 */

#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

enum { MOST = 1 << 17, DEVICES = 4 };
typedef struct {
    void *to;
    size_t size;
    uint8_t bytes[8];
    void *stream;
} Copy;

static Copy queue[MOST];
static int count, first;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_t worker;
static int started;
static __thread int current = -1, stack[8], depth;
static int contexts[DEVICES];

/* What tests set, and look at. */
int standin_held;         /* copies wait for `standin_land` */
int standin_delay_us;     /* or for that long, each */
int standin_capturing;    /* 1 or 2, as the driver has it */
int standin_fails_after = -1; /* copies that go well; -1: all */
int standin_fail_code;
int standin_register_code;
int standin_pushed, standin_registered, standin_mode_changes;
void *standin_last_stream;
int standin_last_device = -1;

int standin_device(int device) { current = device; return 0; }

static void
land(Copy *copy)
{
    /* As a device writes it: as a whole. */
    uint64_t eight;
    uint32_t four;
    uint16_t two;
    switch (copy->size) {
    case 8:
        memcpy(&eight, copy->bytes, 8);
        __atomic_store_n((uint64_t *)copy->to, eight, __ATOMIC_RELEASE);
        break;
    case 4:
        memcpy(&four, copy->bytes, 4);
        __atomic_store_n((uint32_t *)copy->to, four, __ATOMIC_RELEASE);
        break;
    case 2:
        memcpy(&two, copy->bytes, 2);
        __atomic_store_n((uint16_t *)copy->to, two, __ATOMIC_RELEASE);
        break;
    default:
        __atomic_store_n((uint8_t *)copy->to, copy->bytes[0], __ATOMIC_RELEASE);
    }
}

int standin_waiting(void) { return count - first; }

/* Lands so many of those that wait, the oldest first or the newest first. */
int
standin_land(int most, int newest)
{
    pthread_mutex_lock(&lock);
    int landed = 0;
    for (; landed < most && first < count; landed++) {
        land(newest ? &queue[--count] : &queue[first++]);
    }
    if (first == count) {
        first = count = 0;
    }
    pthread_mutex_unlock(&lock);
    return landed;
}

static void *
work(void *unused)
{
    (void)unused;
    for (;;) {
        usleep((useconds_t)(standin_delay_us > 0 ? standin_delay_us : 1000));
        if (!standin_held) {
            standin_land(1, 0);
        }
    }
    return NULL;
}

int
cuMemcpyDtoHAsync_v2(void *to, uint64_t source, size_t size, void *stream)
{
    if (current < 0) {
        return 201; /* CUDA_ERROR_INVALID_CONTEXT */
    }
    if (standin_fails_after == 0) {
        return standin_fail_code;
    }
    if (standin_fails_after > 0) {
        standin_fails_after--;
    }
    Copy copy = {.to = to, .size = size, .stream = stream};
    memcpy(copy.bytes, (void *)(uintptr_t)source, size);
    standin_last_stream = stream;
    standin_last_device = current;
    if (!standin_held && !standin_delay_us) {
        land(&copy);
        return 0;
    }
    pthread_mutex_lock(&lock);
    if (!started && standin_delay_us) {
        started = pthread_create(&worker, NULL, work, NULL) == 0;
    }
    int full = count == MOST;
    if (!full) {
        queue[count++] = copy;
    }
    pthread_mutex_unlock(&lock);
    return full ? 2 : 0;
}

int
cuStreamIsCapturing(void *stream, int *status)
{
    (void)stream;
    *status = standin_capturing;
    return current < 0 ? 201 : 0;
}

int
cuCtxGetDevice(int *device)
{
    *device = current;
    return current < 0 ? 201 : 0;
}

int
cuDevicePrimaryCtxRetain(void **context, int device)
{
    if (device < 0 || device >= DEVICES) {
        return 101;
    }
    contexts[device] = device;
    *context = &contexts[device];
    return 0;
}

int
cuCtxPushCurrent_v2(void *context)
{
    stack[depth++] = current;
    current = *(int *)context;
    standin_pushed++;
    return 0;
}

int
cuCtxPopCurrent_v2(void **context)
{
    *context = NULL;
    current = stack[--depth];
    return 0;
}

int
cuMemHostRegister_v2(void *memory, size_t size, unsigned flags)
{
    (void)memory;
    (void)size;
    standin_registered += flags == 1;
    return standin_register_code;
}

int
cuThreadExchangeStreamCaptureMode(int *mode)
{
    static __thread int kept;
    int before = kept;
    kept = *mode;
    *mode = before;
    standin_mode_changes++;
    return 0;
}

int
cuPointerGetAttribute(void *data, int attribute, uint64_t pointer)
{
    (void)pointer;
    if (attribute != 9) {
        return 1;
    }
    *(int *)data = 0;
    return 0;
}
