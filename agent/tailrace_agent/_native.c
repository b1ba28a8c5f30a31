/* The hot path in C: what `log()` does with plain numbers, without a Python frame, a dictionary or a bytes object.
 *
 * Promises
 * --------
 * 1. It is the Python `log` (tailrace/_hot.py) made faster, and nothing else. A call that holds anything but plain
 *    numbers, or that comes in an unusual way, goes to that function, arguments untouched. What it writes is, byte for
 *    byte, what the encoder and `RingWriter.put` write, which a test compares.
 * 2. From the look at `off` to the new head no function of Python's is called: the GIL is held throughout, so no thread,
 *    signal handler or finalizer gets in between. Without a GIL this module is not built.
 * 3. No state of its own: it reads `Route` and `Cursor` anew at each call, so forks, ends of runs and new rings are
 *    seen as the Python code sees them.
 *
 * `Cursor` is the base of `RingWriter`, `Route` that of `Channel`; tailrace_agent/native.py has both in Python, for
 * where this module could not be built.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <structmember.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#ifdef Py_GIL_DISABLED
#error "the hot path in C relies on the GIL"
#endif
#if PY_BIG_ENDIAN
#error "the ring is little-endian"
#endif

enum {
    HEAD = 8,           /* index of the head among the ring's 64-bit words; see ring.py */
    ROW_MAX = 2048,     /* bytes of keys and values; longer rows go to Python */
    PREFIX_MAX = 32,    /* array, run, step, time, map: 1 + 9 + 9 + 9 + 3 bytes at most */
    ENTRY_EXTRA = 2 + 9 /* what a key's length and a value take beside the key itself */
};

/* -- Cursor: where the next frame goes ----------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    Py_ssize_t off, limit;
    PyObject *memory;
    Py_buffer view;
} Cursor;

static PyMemberDef cursor_members[] = {
    {"off", T_PYSSIZET, offsetof(Cursor, off), 0, "Where the next frame begins."},
    {"limit", T_PYSSIZET, offsetof(Cursor, limit), 0, "How far it may reach."},
    {NULL},
};

static PyObject *
cursor_get_memory(Cursor *self, void *unused)
{
    if (self->memory == NULL) {
        PyErr_SetString(PyExc_AttributeError, "memory");
        return NULL;
    }
    return Py_NewRef(self->memory);
}

static int
cursor_set_memory(Cursor *self, PyObject *memory, void *unused)
{
    if (memory == NULL || self->memory != NULL) {
        PyErr_SetString(PyExc_AttributeError, "memory is set once");
        return -1;
    }
    if (PyObject_GetBuffer(memory, &self->view, PyBUF_WRITABLE) < 0) {
        return -1;
    }
    self->memory = Py_NewRef(memory);
    return 0;
}

static PyGetSetDef cursor_getset[] = {
    {"memory", (getter)cursor_get_memory, (setter)cursor_set_memory, "The ring as bytes."},
    {NULL},
};

static int
cursor_traverse(Cursor *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->memory);
    return 0;
}

static int
cursor_clear(Cursor *self)
{
    if (self->memory != NULL) {
        self->limit = -1;
        PyBuffer_Release(&self->view);
        Py_CLEAR(self->memory);
    }
    return 0;
}

static void
cursor_dealloc(Cursor *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    cursor_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot cursor_slots[] = {
    {Py_tp_doc, "Where the next frame of a ring goes."},
    {Py_tp_members, cursor_members},
    {Py_tp_getset, cursor_getset},
    {Py_tp_traverse, cursor_traverse},
    {Py_tp_clear, cursor_clear},
    {Py_tp_dealloc, cursor_dealloc},
    {0},
};

static PyType_Spec cursor_spec = {
    .name = "tailrace_agent._native.Cursor",
    .basicsize = sizeof(Cursor),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = cursor_slots,
};

/* -- Route: where a run's rows go ---------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    long long run;
    Py_ssize_t known;
    PyObject *ring, *encode, *steps, *latest;
} Route;

static PyMemberDef route_members[] = {
    {"run", T_LONGLONG, offsetof(Route, run), 0, NULL},
    {"known", T_PYSSIZET, offsetof(Route, known), 0, NULL},
    {"ring", T_OBJECT_EX, offsetof(Route, ring), 0, NULL},
    {"encode", T_OBJECT_EX, offsetof(Route, encode), 0, NULL},
    {"steps", T_OBJECT_EX, offsetof(Route, steps), 0, NULL},
    {"latest", T_OBJECT_EX, offsetof(Route, latest), 0, NULL},
    {NULL},
};

static int
route_traverse(Route *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->ring);
    Py_VISIT(self->encode);
    Py_VISIT(self->steps);
    Py_VISIT(self->latest);
    return 0;
}

static int
route_clear(Route *self)
{
    Py_CLEAR(self->ring);
    Py_CLEAR(self->encode);
    Py_CLEAR(self->steps);
    Py_CLEAR(self->latest);
    return 0;
}

static void
route_dealloc(Route *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    route_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot route_slots[] = {
    {Py_tp_doc, "Where a run's rows go."},
    {Py_tp_members, route_members},
    {Py_tp_traverse, route_traverse},
    {Py_tp_clear, route_clear},
    {Py_tp_dealloc, route_dealloc},
    {0},
};

static PyType_Spec route_spec = {
    .name = "tailrace_agent._native.Route",
    .basicsize = sizeof(Route),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = route_slots,
};

/* -- MessagePack ---------------------------------------------------------------------------------------------------- */

static inline uint8_t *
put_big_endian(uint8_t *at, uint8_t kind, uint64_t number, int bytes)
{
    *at++ = kind;
    for (int shift = 8 * (bytes - 1); shift >= 0; shift -= 8) {
        *at++ = (uint8_t)(number >> shift);
    }
    return at;
}

/* The shortest form, as every encoder writes it. */
static uint8_t *
put_integer(uint8_t *at, long long number)
{
    if (number >= -32 && number <= 127) {
        *at++ = (uint8_t)number;
        return at;
    }
    uint64_t bits = (uint64_t)number;
    if (number > 0) {
        return number <= UINT8_MAX    ? put_big_endian(at, 0xcc, bits, 1)
               : number <= UINT16_MAX ? put_big_endian(at, 0xcd, bits, 2)
               : number <= UINT32_MAX ? put_big_endian(at, 0xce, bits, 4)
                                      : put_big_endian(at, 0xcf, bits, 8);
    }
    return number >= INT8_MIN    ? put_big_endian(at, 0xd0, bits, 1)
           : number >= INT16_MIN ? put_big_endian(at, 0xd1, bits, 2)
           : number >= INT32_MIN ? put_big_endian(at, 0xd2, bits, 4)
                                 : put_big_endian(at, 0xd3, bits, 8);
}

/* A float, or of a class in C that derives from it: NumPy's float64. One in Python may have a `__float__` of its own. */
static inline int
is_float(PyObject *value)
{
    return PyFloat_CheckExact(value) || (PyFloat_Check(value) && !PyType_HasFeature(Py_TYPE(value), Py_TPFLAGS_HEAPTYPE));
}

/* One key and its value; NULL for what is no plain number, or finds no room before `end`. */
static uint8_t *
put_entry(uint8_t *at, const uint8_t *end, PyObject *key, PyObject *value)
{
    Py_ssize_t length;
    const char *text;
    if (!PyUnicode_CheckExact(key) || (text = PyUnicode_AsUTF8AndSize(key, &length)) == NULL) {
        PyErr_Clear();
        return NULL;
    }
    if (length > UINT8_MAX || end - at < length + ENTRY_EXTRA) {
        return NULL;
    }
    if (length < 32) {
        *at++ = (uint8_t)(0xa0 | length);
    } else {
        *at++ = 0xd9;
        *at++ = (uint8_t)length;
    }
    memcpy(at, text, (size_t)length);
    at += length;
    if (is_float(value)) {
        uint64_t bits;
        double number = PyFloat_AS_DOUBLE(value);
        memcpy(&bits, &number, sizeof bits);
        return put_big_endian(at, 0xcb, bits, 8);
    }
    if (PyLong_CheckExact(value)) {
        int overflow;
        long long number = PyLong_AsLongLongAndOverflow(value, &overflow);
        return overflow ? NULL : put_integer(at, number);
    }
    if (PyBool_Check(value)) {
        *at++ = value == Py_True ? 0xc3 : 0xc2;
        return at;
    }
    return NULL;
}

static uint8_t *
put_map_header(uint8_t *at, Py_ssize_t count)
{
    if (count < 16) {
        *at++ = (uint8_t)(0x80 | count);
        return at;
    }
    return put_big_endian(at, 0xde, (uint64_t)count, 2);
}

/* As zlib's, for up to ROW_MAX bytes: sums so small need no remainder before the end. */
static uint32_t
adler32(const uint8_t *row, Py_ssize_t size)
{
    uint32_t a = 1, b = 0;
    for (Py_ssize_t i = 0; i < size; i++) {
        a += row[i];
        b += a;
    }
    return (b % 65521) << 16 | (a % 65521);
}

/* -- Log ------------------------------------------------------------------------------------------------------------ */

typedef struct {
    PyObject_HEAD
    PyObject *pointer, *otherwise, *encode, *encode_checked, *channel_name, *put_slowly_name;
    PyTypeObject *cursor_type, *route_type;
} Log;

/* What a call says, once it is known to be an ordinary one. */
typedef struct {
    PyObject *metrics;        /* a dictionary, or NULL */
    PyObject *step;           /* an integer, or NULL */
    PyObject *const *values;  /* of the keywords */
    PyObject *names;          /* of the keywords, `step` among them; or NULL */
    Py_ssize_t step_at;       /* where it is among them, or -1 */
    Py_ssize_t count;         /* of metrics */
} Call;

static inline int
is_step(PyObject *name)
{
    return PyUnicode_GET_LENGTH(name) == 4 && PyUnicode_CompareWithASCIIString(name, "step") == 0;
}

/* Whether the call comes in one of the usual ways: a dictionary or keywords, not both, and an integer as step. */
static inline int
understand(PyObject *const *args, Py_ssize_t positional, PyObject *names, Call *call)
{
    *call = (Call){.values = args + positional, .names = names, .step_at = -1};
    Py_ssize_t keywords = names == NULL ? 0 : PyTuple_GET_SIZE(names);
    if (positional > 1) {
        return 0;
    }
    if (positional == 1 && args[0] != Py_None) {
        if (!PyDict_CheckExact(args[0])) {
            return 0;
        }
        call->metrics = args[0];
    }
    for (Py_ssize_t i = 0; i < keywords; i++) {
        if (is_step(PyTuple_GET_ITEM(names, i))) {
            call->step_at = i;
            call->step = call->values[i] == Py_None ? NULL : call->values[i];
            break;
        }
    }
    call->count = keywords - (call->step_at >= 0);
    if (call->metrics != NULL) {
        if (call->count > 0) {
            return 0;
        }
        call->count = PyDict_GET_SIZE(call->metrics);
    }
    return call->count <= UINT16_MAX && (call->step == NULL || PyLong_CheckExact(call->step));
}

/* The metrics' keys and values; NULL when one of them is not for us. */
static inline uint8_t *
put_entries(uint8_t *at, const uint8_t *end, const Call *call)
{
    if (call->metrics != NULL) {
        PyObject *key, *value;
        for (Py_ssize_t i = 0; at != NULL && PyDict_Next(call->metrics, &i, &key, &value);) {
            at = put_entry(at, end, key, value);
        }
        return at;
    }
    for (Py_ssize_t i = 0, given = call->count + (call->step_at >= 0); at != NULL && i < given; i++) {
        if (i != call->step_at) {
            at = put_entry(at, end, PyTuple_GET_ITEM(call->names, i), call->values[i]);
        }
    }
    return at;
}

/* The step of the call, or of the run's own counter. 0 when it is none that MLflow could take. */
static inline int
step_of(const Call *call, Route *route, long long *step)
{
    int overflow;
    if (call->step != NULL) {
        *step = PyLong_AsLongLongAndOverflow(call->step, &overflow);
        return !overflow && *step != LLONG_MIN;
    }
    PyObject *next = route->steps == NULL ? NULL : PyIter_Next(route->steps);
    if (next == NULL || !PyLong_CheckExact(next)) { /* the run has just been closed: Python finds it so, too */
        Py_XDECREF(next);
        PyErr_Clear();
        return 0;
    }
    *step = PyLong_AsLongLongAndOverflow(next, &overflow);
    Py_DECREF(next);
    return !overflow;
}

/* Copies a row into the ring and publishes it; 0 where there is no room before `limit`. Nothing of Python's in here. */
static inline int
put_row(Cursor *ring, const uint8_t *row, Py_ssize_t size)
{
    Py_ssize_t off = ring->off, end = off + ((size + 15) & -8);
    if (off < 0 || end > ring->limit || end > ring->view.len) {
        return 0;
    }
    ring->off = end;
    uint8_t *memory = ring->view.buf;
    uint64_t word = (uint64_t)size | (uint64_t)adler32(row, size) << 32;
    memcpy(memory + off, &word, sizeof word);
    memcpy(memory + off + sizeof word, row, (size_t)size);
    __atomic_store_n((uint64_t *)memory + HEAD, (uint64_t)end, __ATOMIC_RELEASE);
    return 1;
}

static PyObject *
put_slowly(const Log *self, PyObject *ring, const uint8_t *row, Py_ssize_t size)
{
    PyObject *body = PyBytes_FromStringAndSize((const char *)row, size);
    if (body == NULL) {
        return NULL;
    }
    Py_INCREF(ring);
    PyObject *result = PyObject_CallMethodOneArg(ring, self->put_slowly_name, body);
    Py_DECREF(ring);
    Py_DECREF(body);
    return result;
}

/* Delivers a call. 0: nothing has happened, and Python's `log` is to do it. */
static inline int
deliver(const Log *self, Route *route, const Call *call, int64_t now, PyObject **result)
{
    uint8_t buffer[PREFIX_MAX + ROW_MAX], prefix[PREFIX_MAX], *at = prefix;
    const uint8_t *end = put_entries(buffer + PREFIX_MAX, buffer + sizeof buffer, call);
    long long step;
    if (end == NULL || !step_of(call, route, &step)) {
        return 0;
    }
    *at++ = 0x94;
    at = put_integer(at, route->run);
    at = put_integer(at, step);
    at = put_integer(at, now);
    at = put_map_header(at, call->count);
    uint8_t *row = buffer + PREFIX_MAX - (at - prefix);
    memcpy(row, prefix, (size_t)(at - prefix));
    if (put_row((Cursor *)route->ring, row, end - row)) {
        *result = Py_NewRef(Py_None);
    } else {
        *result = put_slowly(self, route->ring, row, end - row);
    }
    return 1;
}

/* Tracking is off: keeps the last values. 0: Python's `log` is to do it, or to look at a new name. */
static inline int
keep(Route *route, const Call *call)
{
    PyObject *latest = route->latest;
    if (latest == NULL || !PyDict_CheckExact(latest)) {
        return 0;
    }
    int failed = 0;
    Py_INCREF(latest);
    if (call->metrics != NULL) {
        failed = PyDict_Update(latest, call->metrics) < 0;
    } else {
        for (Py_ssize_t i = 0, given = call->count + (call->step_at >= 0); !failed && i < given; i++) {
            if (i != call->step_at) {
                failed = PyDict_SetItem(latest, PyTuple_GET_ITEM(call->names, i), call->values[i]) < 0;
            }
        }
    }
    if (failed) {
        PyErr_Clear(); /* Python's `log` meets it again, and says so */
    }
    int done = !failed && PyDict_GET_SIZE(latest) <= route->known;
    Py_DECREF(latest);
    return done;
}

static inline int64_t
time_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static PyObject *
log_log(Log *self, PyObject *const *args, Py_ssize_t positional, PyObject *names)
{
    int64_t now = time_ns(); /* first, so that the cost in the report is that of the whole call */
    PyObject *channel = PyObject_GetAttr(self->pointer, self->channel_name);
    if (channel == NULL) {
        return NULL;
    }
    int done = 0;
    PyObject *result = NULL;
    Call call;
    if (PyObject_TypeCheck(channel, self->route_type) && understand(args, positional, names, &call)) {
        Route *route = (Route *)channel;
        if (route->encode == self->encode || route->encode == self->encode_checked) {
            if (route->ring != NULL && PyObject_TypeCheck(route->ring, self->cursor_type)) {
                done = deliver(self, route, &call, now, &result);
            }
        } else if (route->encode == Py_None && keep(route, &call)) {
            done = 1;
            result = Py_NewRef(Py_None);
        }
    }
    Py_DECREF(channel);
    return done ? result : PyObject_Vectorcall(self->otherwise, args, (size_t)positional, names);
}

PyDoc_STRVAR(log_doc,
             "log($self, metrics=None, /, *, step=None, **values)\n--\n\n"
             "Logs metrics of one training step: about a microsecond, and never an exception into training.\n"
             "\n"
             "When it returns, the values survive a `kill -9`; the agent carries them to MLflow, each exactly once.\n"
             "\n"
             "Args:\n"
             "    metrics: Metrics by name, for names that are no Python identifiers (`\"train/loss\"`).\n"
             "    step: Training step; without it, the run's own counter of calls without a step: 0, 1, 2, …\n"
             "    **values: Metrics as keywords. Numbers of any kind: float, int, bool, NumPy scalars, tensors with one\n"
             "        element. A tensor on a GPU is copied without a sync, and logged with this call's step and time.\n"
             "\n"
             "Raises:\n"
             "    CallError: Under `strict=True` only: a value that is no number, a step that is no integer.\n"
             "\n"
             "Thread safety: any thread, forked child, signal handler or finalizer.\n"
             "\n"
             "Example:\n"
             "    >>> log(step=7, loss=0.25)\n"
             "    >>> log({\"train/loss\": 0.25, \"train/accuracy\": 0.9}, step=7)");

static PyMethodDef log_methods[] = {
    {"log", (PyCFunction)(void (*)(void))log_log, METH_FASTCALL | METH_KEYWORDS, log_doc},
    {NULL},
};

typedef struct {
    PyTypeObject *cursor, *route;
} State;

static PyObject *
log_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *pointer, *otherwise, *encode, *encode_checked;
    static char *names[] = {"pointer", "otherwise", "encode", "encode_checked", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOO", names, &pointer, &otherwise, &encode, &encode_checked)) {
        return NULL;
    }
    const State *state = PyType_GetModuleState(type);
    Log *self = state == NULL ? NULL : (Log *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->pointer = Py_NewRef(pointer);
    self->otherwise = Py_NewRef(otherwise);
    self->encode = Py_NewRef(encode);
    self->encode_checked = Py_NewRef(encode_checked);
    self->cursor_type = (PyTypeObject *)Py_NewRef(state->cursor);
    self->route_type = (PyTypeObject *)Py_NewRef(state->route);
    self->channel_name = PyUnicode_InternFromString("channel");
    self->put_slowly_name = PyUnicode_InternFromString("put_slowly");
    if (self->channel_name == NULL || self->put_slowly_name == NULL) {
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static int
log_traverse(Log *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->pointer);
    Py_VISIT(self->otherwise);
    Py_VISIT(self->encode);
    Py_VISIT(self->encode_checked);
    return 0;
}

static void
log_dealloc(Log *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->pointer);
    Py_XDECREF(self->otherwise);
    Py_XDECREF(self->encode);
    Py_XDECREF(self->encode_checked);
    Py_XDECREF(self->channel_name);
    Py_XDECREF(self->put_slowly_name);
    Py_XDECREF(self->cursor_type);
    Py_XDECREF(self->route_type);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot log_slots[] = {
    {Py_tp_doc, "A `log()` that follows `pointer.channel`; what it does not do itself, `otherwise` does."},
    {Py_tp_new, log_new},
    {Py_tp_methods, log_methods},
    {Py_tp_traverse, log_traverse},
    {Py_tp_dealloc, log_dealloc},
    {0},
};

static PyType_Spec log_spec = {
    .name = "tailrace_agent._native.Log",
    .basicsize = sizeof(Log),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC,
    .slots = log_slots,
};

/* -- the module ----------------------------------------------------------------------------------------------------- */

static PyTypeObject *
add_type(PyObject *module, PyType_Spec *spec)
{
    PyTypeObject *type = (PyTypeObject *)PyType_FromModuleAndSpec(module, spec, NULL);
    if (type != NULL && PyModule_AddType(module, type) < 0) {
        Py_CLEAR(type);
    }
    return type;
}

static int
module_exec(PyObject *module)
{
    State *state = PyModule_GetState(module);
    state->cursor = add_type(module, &cursor_spec);
    state->route = add_type(module, &route_spec);
    PyTypeObject *log = add_type(module, &log_spec);
    Py_XDECREF(log);
    return state->cursor == NULL || state->route == NULL || log == NULL ? -1 : 0;
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);
    Py_VISIT(state->cursor);
    Py_VISIT(state->route);
    return 0;
}

static int
module_clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
    Py_CLEAR(state->cursor);
    Py_CLEAR(state->route);
    return 0;
}

static PyModuleDef_Slot module_slots[] = {
    {Py_mod_exec, module_exec},
    {0},
};

static struct PyModuleDef module_def = {
    PyModuleDef_HEAD_INIT,
    .m_name = "tailrace_agent._native",
    .m_doc = "The hot path in C.",
    .m_size = sizeof(State),
    .m_slots = module_slots,
    .m_traverse = module_traverse,
    .m_clear = module_clear,
};

PyMODINIT_FUNC
PyInit__native(void)
{
    return PyModuleDef_Init(&module_def);
}
