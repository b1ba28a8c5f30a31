/* Values on a GPU: the device itself copies them into shared memory, into slots that rows on the ring name. A part of
 * log.c; tailrace_agent/ipc/device_slots.py has the format, and what the agent makes of it.
 *
 * Promises
 * --------
 * 1. Nothing is linked: libcuda is the one that the program has loaded, or there are no slots.
 * 2. No wait, no event, no allocation on the device, no thread. What cannot be done so (no slot is free, a graph is being
 *    captured, the driver says no) is not done at all, and Python does it in the older way.
 * 3. A slot holds its pattern before a copy to it is queued, and is not taken again before the agent has seen the value.
 * 4. Registered memory stays: a copy may be under way to it, whatever becomes of its ring.
 */

#ifndef TAILRACE_DEVICE_H
#define TAILRACE_DEVICE_H

#include <Python.h>
#include <dlfcn.h>
#include <stdint.h>
#include <string.h>

enum {
    SLOT_WORDS = 4,     /* of 64 bits */
    SLOTS_HEADER = 512, /* words before the first slot */
    LOOK_AHEAD = 256,   /* slots that are looked at beyond those that are needed: some may wait for a stream that hangs */
    COPIES_MAX = 16,    /* of one call in C; a call with more is Python's */
    DEVICES_MAX = 64,
    PLACE_SIZE = 8,
    PLACE_EXT = 116 /* MessagePack's type for a place */
};

/* -- the driver ---------------------------------------------------------------------------------------------------- */

typedef struct {
    int (*copy)(void *, uint64_t, size_t, void *); /* each gives 0, or an error */
    int (*is_capturing)(void *, int *);
    int (*current_device)(int *);
    int (*retain)(void **, int);
    int (*push)(void *);
    int (*pop)(void **);
    int (*register_)(void *, size_t, unsigned);
    int (*capture_mode)(int *);
    int (*attribute)(void *, int, uint64_t);
} Driver;

/* Whether the program has loaded the driver, and it has all that is needed. */
static int
driver_open(Driver *driver)
{
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    if (library == NULL) {
        return 0;
    }
    struct {
        const char *name;
        void *at;
    } const symbols[] = {
        {"cuMemcpyDtoHAsync_v2", &driver->copy},
        {"cuStreamIsCapturing", &driver->is_capturing},
        {"cuCtxGetDevice", &driver->current_device},
        {"cuDevicePrimaryCtxRetain", &driver->retain},
        {"cuCtxPushCurrent_v2", &driver->push},
        {"cuCtxPopCurrent_v2", &driver->pop},
        {"cuMemHostRegister_v2", &driver->register_},
        {"cuThreadExchangeStreamCaptureMode", &driver->capture_mode},
        {"cuPointerGetAttribute", &driver->attribute},
    };
    for (size_t i = 0; i < sizeof symbols / sizeof *symbols; i++) {
        void *symbol = dlsym(library, symbols[i].name);
        if (symbol == NULL) {
            dlclose(library);
            return 0;
        }
        memcpy(symbols[i].at, &symbol, sizeof symbol);
    }
    return 1; /* the library is kept */
}

/* -- Slots ----------------------------------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    Py_buffer view;
    uint64_t *words;
    uint32_t count, next;
    Driver driver;
    void *contexts[DEVICES_MAX];
    PyObject *stream, *dtypes;
    PyObject *is_cuda_name, *numel_name, *dtype_name, *data_ptr_name, *get_device_name, *is_neg_name;
} Slots;

/* A value that is to be copied. */
typedef struct {
    uint64_t source;
    void *stream;
    int device; /* -1: the driver knows */
    int dtype;
    uint32_t slot, generation;
} Copy;

/* By code, as device_slots.py has them. */
static const struct {
    uint8_t size, twice;
    uint64_t pattern;
} DTYPES[] = {
    {0, 0, 0},
    {2, 0, 0xfd5a},
    {2, 0, 0xff95},
    {4, 0, 0xffa5c3e1},
    {8, 0, 0xfff5c3e1d2b4a697},
    {1, 1, 0xa5},
    {1, 1, 0xa5},
    {2, 1, 0x5aa5},
    {4, 1, 0x5aa55aa5},
    {8, 1, 0x5aa55aa55aa55aa5},
    {1, 1, 0xa5},
    {2, 1, 0x5aa5},
    {4, 1, 0x5aa55aa5},
    {8, 1, 0x5aa55aa55aa55aa5},
};

static inline int
is_dtype(long code)
{
    return code > 0 && code < (long)(sizeof DTYPES / sizeof *DTYPES);
}

/* Takes a slot for each copy; 0, and none, where not enough are free near by. Nothing of Python's in here. */
static int
take_slots(Slots *self, Copy *copies, Py_ssize_t count)
{
    uint32_t at = self->next;
    Py_ssize_t found = 0;
    for (Py_ssize_t tries = count + LOOK_AHEAD; found < count; tries--) {
        uint64_t *slot = self->words + (size_t)at * SLOT_WORDS;
        if (tries == 0 || count > self->count) {
            self->next = at; /* the next call looks further */
            return 0;
        }
        if ((uint32_t)slot[0] == (uint32_t)__atomic_load_n(&slot[1], __ATOMIC_ACQUIRE)) {
            copies[found++].slot = at;
        }
        at = at + 1 < self->count ? at + 1 : 0;
        if (at == self->next && found < count) { /* once around */
            return 0;
        }
    }
    self->next = at;
    for (Py_ssize_t i = 0; i < count; i++) {
        uint64_t *slot = self->words + (size_t)copies[i].slot * SLOT_WORDS;
        uint64_t pattern = DTYPES[copies[i].dtype].pattern;
        copies[i].generation = (uint32_t)slot[0] + 1;
        slot[2] = pattern;
        slot[3] = ~pattern;
        /* Last: whoever finds the new generation finds the pattern, too. */
        __atomic_store_n(&slot[0], copies[i].generation | (uint64_t)copies[i].dtype << 32, __ATOMIC_RELEASE);
    }
    return 1;
}

/* Gives slots back to which nothing was queued. */
static void
return_slots(Slots *self, const Copy *copies, Py_ssize_t count)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        __atomic_store_n(self->words + (size_t)copies[i].slot * SLOT_WORDS + 1, copies[i].generation, __ATOMIC_RELEASE);
    }
}

/* Makes a device's context the thread's, where it is another one's; -1 where that fails, else whether to go back. */
static int
enter(Slots *self, const Copy *copy)
{
    int current, device = copy->device;
    if (device < 0 && self->driver.attribute(&device, 9 /* DEVICE_ORDINAL */, copy->source) != 0) {
        return -1;
    }
    /* A stream that is zero is that of the thread's context, which is another device's, or none: that of a new thread. */
    if (self->driver.current_device(&current) == 0 && current == device) {
        return 0;
    }
    if (device < 0 || device >= DEVICES_MAX ||
        (self->contexts[device] == NULL && self->driver.retain(&self->contexts[device], device) != 0)) {
        return -1;
    }
    return self->driver.push(self->contexts[device]) == 0 ? 1 : -1;
}

static inline void
leave(Slots *self, int entered)
{
    void *left;
    if (entered > 0) {
        self->driver.pop(&left);
    }
}

/* Whether a copy may be queued on its stream: what is queued while a graph is captured becomes a part of it. */
static int
is_open(Slots *self, const Copy *copy)
{
    int capturing = 1, entered = enter(self, copy);
    int open = entered >= 0 && self->driver.is_capturing(copy->stream, &capturing) == 0 && capturing == 0;
    leave(self, entered);
    return open;
}

/* How many of a value's copies were queued. */
static int
queue_one(Slots *self, const Copy *copy)
{
    uint64_t *slot = self->words + (size_t)copy->slot * SLOT_WORDS;
    int queued = 0, entered = enter(self, copy);
    while (entered >= 0 && queued <= DTYPES[copy->dtype].twice &&
           self->driver.copy(slot + 2 + queued, copy->source, DTYPES[copy->dtype].size, copy->stream) == 0) {
        queued++;
    }
    leave(self, entered);
    return queued;
}

/* Takes slots and queues the copies; 0 where that cannot be done. Others may run meanwhile. */
static int
queue_copies(Slots *self, Copy *copies, Py_ssize_t count)
{
    if (!take_slots(self, copies, count)) {
        return 0;
    }
    Py_ssize_t open = 0, queued = 0;
    int last = 0;
    /* A device's queue that is full is waited for by the driver: for ever, where the device hangs. */
    Py_BEGIN_ALLOW_THREADS
    while (open < count && is_open(self, &copies[open])) {
        open++;
    }
    while (open == count && queued < count && (last = queue_one(self, &copies[queued])) > DTYPES[copies[queued].dtype].twice) {
        queued++;
    }
    Py_END_ALLOW_THREADS
    if (queued < count) {
        /* Those to which something was queued the agent frees when it is there. */
        Py_ssize_t untouched = queued + (last > 0 && open == count);
        return_slots(self, copies + untouched, count - untouched);
    }
    return queued == count;
}

static inline void
put_place(uint8_t place[PLACE_SIZE], const Copy *copy)
{
    uint16_t slot = (uint16_t)copy->slot;
    memcpy(place, &slot, sizeof slot);
    place[2] = (uint8_t)copy->dtype;
    place[3] = 0;
    memcpy(place + 4, &copy->generation, sizeof copy->generation);
}

/* An integer that a method of the value gives; -1, perhaps with an error, where it gives none. */
static long long
asked(PyObject *value, PyObject *name)
{
    PyObject *found = PyObject_CallMethodNoArgs(value, name);
    long long number = found != NULL && PyLong_Check(found) ? PyLong_AsLongLong(found) : -1;
    Py_XDECREF(found);
    return number;
}

/* Whether a torch tensor is one number on a GPU that can be copied as it lies there, and then how. Perhaps an error. */
static int
describe(const Slots *self, PyObject *tensor, Copy *copy)
{
    PyObject *is_cuda = PyObject_GetAttr(tensor, self->is_cuda_name);
    Py_XDECREF(is_cuda);
    /* A view may say that what lies there is to be negated. */
    if (is_cuda != Py_True || asked(tensor, self->numel_name) != 1 || asked(tensor, self->is_neg_name) != 0) {
        return 0;
    }
    PyObject *dtype = PyObject_GetAttr(tensor, self->dtype_name);
    PyObject *code = dtype == NULL ? NULL : PyDict_GetItemWithError(self->dtypes, dtype);
    long known = code == NULL ? 0 : PyLong_AsLong(code);
    Py_XDECREF(dtype);
    if (!is_dtype(known)) {
        return 0;
    }
    long long device = asked(tensor, self->get_device_name);
    long long source = device < 0 ? -1 : asked(tensor, self->data_ptr_name);
    if (device >= DEVICES_MAX || source <= 0) {
        return 0;
    }
    PyObject *index = PyLong_FromLongLong(device);
    PyObject *stream = index == NULL ? NULL : PyObject_CallOneArg(self->stream, index);
    copy->stream = stream == NULL ? NULL : PyLong_AsVoidPtr(stream);
    copy->source = (uint64_t)source;
    copy->device = (int)device;
    copy->dtype = (int)known;
    Py_XDECREF(index);
    Py_XDECREF(stream);
    return !PyErr_Occurred();
}

/* -- for Python -------------------------------------------------------------------------------------------------------- */

static PyObject *
slots_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *memory, *stream, *dtypes;
    static char *names[] = {"memory", "stream", "dtypes", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOO!", names, &memory, &stream, &PyDict_Type, &dtypes)) {
        return NULL;
    }
    Driver driver;
    if (!driver_open(&driver)) {
        PyErr_SetString(PyExc_OSError, "the program has loaded no CUDA driver with all that is needed");
        return NULL;
    }
    Slots *self = (Slots *)type->tp_alloc(type, 0);
    if (self == NULL || PyObject_GetBuffer(memory, &self->view, PyBUF_WRITABLE) < 0) {
        Py_XDECREF(self);
        return NULL;
    }
    Py_ssize_t slots = (self->view.len / 8 - SLOTS_HEADER) / SLOT_WORDS;
    if (slots < 1 || slots > UINT16_MAX + 1 || (uintptr_t)self->view.buf % 8 != 0) {
        PyBuffer_Release(&self->view);
        Py_DECREF(self);
        PyErr_SetString(PyExc_ValueError, "no slots");
        return NULL;
    }
    self->driver = driver;
    self->words = (uint64_t *)self->view.buf + SLOTS_HEADER;
    self->count = (uint32_t)slots;
    self->stream = Py_NewRef(stream);
    self->dtypes = Py_NewRef(dtypes);
    self->is_cuda_name = PyUnicode_InternFromString("is_cuda");
    self->numel_name = PyUnicode_InternFromString("numel");
    self->dtype_name = PyUnicode_InternFromString("dtype");
    self->data_ptr_name = PyUnicode_InternFromString("data_ptr");
    self->get_device_name = PyUnicode_InternFromString("get_device");
    self->is_neg_name = PyUnicode_InternFromString("is_neg");
    if (!self->is_cuda_name || !self->numel_name || !self->dtype_name || !self->data_ptr_name ||
        !self->get_device_name || !self->is_neg_name) {
        Py_DECREF(self);
        return NULL;
    }
    int mode = 2 /* relaxed: another thread may be capturing a graph */, failed, scoped;
    Py_BEGIN_ALLOW_THREADS
    scoped = driver.capture_mode(&mode) == 0;
    failed = driver.register_(self->view.buf, (size_t)self->view.len, 1 /* portable: for all contexts */);
    if (scoped) {
        driver.capture_mode(&mode);
    }
    Py_END_ALLOW_THREADS
    if (failed) {
        PyErr_Format(PyExc_OSError, "the CUDA driver did not register shared memory: error %d", failed);
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static PyObject *
slots_describe(Slots *self, PyObject *tensor)
{
    Copy copy;
    if (!describe(self, tensor, &copy)) {
        return PyErr_Occurred() ? NULL : Py_NewRef(Py_None);
    }
    return Py_BuildValue("KiiK", (unsigned long long)copy.source, copy.dtype, copy.device,
                         (unsigned long long)(uintptr_t)copy.stream);
}

static PyObject *
slots_queue(Slots *self, PyObject *given)
{
    if (!PyList_CheckExact(given)) {
        PyErr_SetString(PyExc_TypeError, "a list");
        return NULL;
    }
    Py_ssize_t count = PyList_GET_SIZE(given);
    Copy *copies = PyMem_Calloc((size_t)(count > 0 ? count : 1), sizeof *copies);
    PyObject *places = NULL;
    if (copies == NULL) {
        return PyErr_NoMemory();
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        unsigned long long source, stream;
        PyObject *each = PyList_GET_ITEM(given, i);
        if (!PyTuple_Check(each) ||
            !PyArg_ParseTuple(each, "KiiK", &source, &copies[i].dtype, &copies[i].device, &stream) ||
            !is_dtype(copies[i].dtype)) {
            if (!PyErr_Occurred()) {
                PyErr_SetString(PyExc_ValueError, "(source, dtype, device, stream)");
            }
            goto done;
        }
        copies[i].source = source;
        copies[i].stream = (void *)(uintptr_t)stream;
    }
    if (!queue_copies(self, copies, count)) {
        places = Py_NewRef(Py_None);
        goto done;
    }
    places = PyList_New(count);
    for (Py_ssize_t i = 0; places != NULL && i < count; i++) {
        uint8_t place[PLACE_SIZE];
        put_place(place, &copies[i]);
        PyObject *body = PyBytes_FromStringAndSize((const char *)place, PLACE_SIZE);
        if (body == NULL) {
            Py_CLEAR(places);
            break;
        }
        PyList_SET_ITEM(places, i, body);
    }
done:
    PyMem_Free(copies);
    return places;
}

static int
slots_traverse(Slots *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->stream);
    Py_VISIT(self->dtypes);
    return 0;
}

static void
slots_dealloc(Slots *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    /* The memory is not given back, see promise 4: whatever it is of keeps a reference for ever. */
    Py_XDECREF(self->stream);
    Py_XDECREF(self->dtypes);
    Py_XDECREF(self->is_cuda_name);
    Py_XDECREF(self->numel_name);
    Py_XDECREF(self->dtype_name);
    Py_XDECREF(self->data_ptr_name);
    Py_XDECREF(self->get_device_name);
    Py_XDECREF(self->is_neg_name);
    type->tp_free(self);
    Py_DECREF(type);
}

PyDoc_STRVAR(slots_queue_doc, "queue($self, copies, /)\n--\n\n"
                              "Has devices copy values, each `(source, dtype, device, stream)`, into slots.\n\n"
                              "Returns the places, or None where that cannot be done now: then none is to be had.");
PyDoc_STRVAR(slots_describe_doc, "describe($self, tensor, /)\n--\n\n"
                                 "What `queue` wants of a torch tensor; None for one that it cannot take.");

static PyMethodDef slots_methods[] = {
    {"queue", (PyCFunction)slots_queue, METH_O, slots_queue_doc},
    {"describe", (PyCFunction)slots_describe, METH_O, slots_describe_doc},
    {NULL},
};

static PyType_Slot slots_slots[] = {
    {Py_tp_doc, "Slots of shared memory, registered with the CUDA driver that the program has loaded."},
    {Py_tp_new, slots_new},
    {Py_tp_methods, slots_methods},
    {Py_tp_traverse, slots_traverse},
    {Py_tp_dealloc, slots_dealloc},
    {0},
};

static PyType_Spec slots_spec = {
    .name = "tailrace_agent._native.Slots",
    .basicsize = sizeof(Slots),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = slots_slots,
};

#endif
