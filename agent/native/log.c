/* The hot path in C: what `log()` does with plain numbers, without a Python frame, a dictionary or a bytes object.
 *
 * Promises
 * --------
 * 1. It is the Python `log` (tailrace/_hot.py) made faster, and nothing else. A call that holds anything but plain
 *    numbers, or that comes in an unusual way, goes to that function, arguments untouched. What it writes is, byte for
 *    byte, what the encoder and `RingWriter.put` write, which a test compares. (Of a selection with several rules, the
 *    keys stand in the call's order instead of the rules'.)
 * 2. From the look at `off` to the new head no function of Python's is called: the GIL is held throughout, so no thread,
 *    signal handler or finalizer gets in between. Without a GIL this module is not built.
 * 3. No state of its own: it reads `Route` and `Cursor` anew at each call, so forks, ends of runs and new rings are
 *    seen as the Python code sees them.
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include "msgpack.h"
#include "state.h"

#ifdef Py_GIL_DISABLED
#error "the hot path in C relies on the GIL"
#endif
#if PY_BIG_ENDIAN
#error "the ring is little-endian"
#endif

enum {
    HEAD = 8,     /* index of the head among the ring's 64-bit words; see ring.py */
    INTERFACE = 1 /* between this file and the Python code; native.py asks for it */
};

/* -- Log ------------------------------------------------------------------------------------------------------------ */

typedef struct {
    PyObject_HEAD
    PyObject *pointer, *otherwise, *encode, *encode_checked, *channel_name, *put_slowly_name, *sampled_name;
    PyTypeObject *cursor_type, *route_type, *group_type, *selector_type;
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

/* The metrics' keys and values, and where each ends, if asked; NULL when one of them is not for us. */
static inline uint8_t *
put_entries(uint8_t *at, const uint8_t *end, const Call *call, uint8_t **ends)
{
    if (call->metrics != NULL) {
        PyObject *key, *value;
        for (Py_ssize_t i = 0; at != NULL && PyDict_Next(call->metrics, &i, &key, &value);) {
            at = put_entry(at, end, key, value);
            if (ends != NULL) {
                *ends++ = at;
            }
        }
        return at;
    }
    for (Py_ssize_t i = 0, given = call->count + (call->step_at >= 0); at != NULL && i < given; i++) {
        if (i != call->step_at) {
            at = put_entry(at, end, PyTuple_GET_ITEM(call->names, i), call->values[i]);
            if (ends != NULL) {
                *ends++ = at;
            }
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
    PyObject *next = route->steps != NULL && PyIter_Check(route->steps) ? PyIter_Next(route->steps) : NULL;
    if (next == NULL || !PyLong_CheckExact(next)) { /* the run has just been closed: Python finds it so, too */
        Py_XDECREF(next);
        PyErr_Clear();
        return 0;
    }
    *step = PyLong_AsLongLongAndOverflow(next, &overflow);
    Py_DECREF(next);
    return !overflow;
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

/* Copies a row into the ring and publishes it; 0 where it would reach beyond `limit`. Nothing of Python's in here. */
static inline int
put_row(Cursor *ring, const uint8_t *row, Py_ssize_t size, Py_ssize_t limit)
{
    Py_ssize_t off = ring->off, end = off + ((size + 15) & -8);
    if (off < 0 || end > limit || end > ring->view.len) {
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

static inline int64_t
time_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* What the ring does beyond its limit. One call in 200 comes here although there is room: then it is timed. */
static PyObject *
put_beyond(const Log *self, Cursor *ring, const uint8_t *row, Py_ssize_t size)
{
    int timed = ring->limit >= 0 && put_row(ring, row, size, ring->hard);
    int64_t done = timed ? time_ns() : 0;
    PyObject *result = NULL, *took = PyLong_FromLongLong(done);
    PyObject *body = PyBytes_FromStringAndSize((const char *)row, size);
    if (body != NULL && took != NULL) {
        PyObject *name = timed ? self->sampled_name : self->put_slowly_name;
        Py_INCREF(ring);
        result = PyObject_CallMethodObjArgs((PyObject *)ring, name, body, timed ? took : NULL, NULL);
        Py_DECREF(ring);
    }
    Py_XDECREF(body);
    Py_XDECREF(took);
    return result;
}

static inline PyObject *
put(const Log *self, PyObject *ring, const uint8_t *row, Py_ssize_t size)
{
    Cursor *cursor = (Cursor *)ring;
    return put_row(cursor, row, size, cursor->limit) ? Py_NewRef(Py_None) : put_beyond(self, cursor, row, size);
}

/* Delivers a call. 0: nothing has happened, and Python's `log` is to do it. */
static inline int
deliver(const Log *self, Route *route, const Call *call, int64_t now, PyObject **result)
{
    uint8_t buffer[PREFIX_MAX + ROW_MAX], prefix[PREFIX_MAX];
    const uint8_t *end = put_entries(buffer + PREFIX_MAX, buffer + sizeof buffer, call, NULL);
    long long step;
    if (end == NULL || !step_of(call, route, &step)) {
        return 0;
    }
    Py_ssize_t length = put_prefix(prefix, route->run, step, now, call->count);
    uint8_t *row = buffer + PREFIX_MAX - length;
    memcpy(row, prefix, (size_t)length);
    *result = put(self, route->ring, row, end - row);
    return 1;
}

#include "selection.h"

/* Tracking is off: keeps the last values. 0: Python's `log` is to do it, or to look at a new name. 1: done, or an error. */
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
    int done = failed ? !forgive() : PyDict_GET_SIZE(latest) <= route->known;
    Py_DECREF(latest);
    return done;
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
        } else if (route->encode == Py_None) {
            done = keep(route, &call);
            result = done && !PyErr_Occurred() ? Py_NewRef(Py_None) : NULL;
        } else if (route->selection != NULL && PyObject_TypeCheck(route->selection, self->selector_type)) {
            done = deliver_selected(self, route, &call, now, &result);
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
    PyTypeObject *cursor, *route, *group, *selector;
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
    self->group_type = (PyTypeObject *)Py_NewRef(state->group);
    self->selector_type = (PyTypeObject *)Py_NewRef(state->selector);
    self->channel_name = PyUnicode_InternFromString("channel");
    self->put_slowly_name = PyUnicode_InternFromString("put_slowly");
    self->sampled_name = PyUnicode_InternFromString("sampled");
    if (self->channel_name == NULL || self->put_slowly_name == NULL || self->sampled_name == NULL) {
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
    Py_XDECREF(self->sampled_name);
    Py_XDECREF(self->cursor_type);
    Py_XDECREF(self->route_type);
    Py_XDECREF(self->group_type);
    Py_XDECREF(self->selector_type);
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
    state->group = add_type(module, &group_spec);
    state->selector = add_type(module, &selector_spec);
    PyTypeObject *log = add_type(module, &log_spec);
    Py_XDECREF(log);
    if (PyModule_AddIntConstant(module, "INTERFACE", INTERFACE) < 0) {
        return -1;
    }
    int whole = state->cursor && state->route && state->group && state->selector && log;
    return whole ? 0 : -1;
}

static int
module_traverse(PyObject *module, visitproc visit, void *arg)
{
    State *state = PyModule_GetState(module);
    Py_VISIT(state->cursor);
    Py_VISIT(state->route);
    Py_VISIT(state->group);
    Py_VISIT(state->selector);
    return 0;
}

static int
module_clear(PyObject *module)
{
    State *state = PyModule_GetState(module);
    Py_CLEAR(state->cursor);
    Py_CLEAR(state->route);
    Py_CLEAR(state->group);
    Py_CLEAR(state->selector);
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
