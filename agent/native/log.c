/* The hot path in C: what `log()` does with plain numbers, without a Python frame, a dictionary or a bytes object.
 *
 * Promises
 * --------
 * 1. It is the Python `log` (tailrace/_log/log.py) made faster, and nothing else. A call that holds anything but numbers
 *    that are here by now, or that comes in an unusual way, goes to that function, arguments untouched. What it writes is,
 *    byte for byte, what the encoder and `RingWriter.put` write, which a test compares. (Of a selection with several
 *    rules, the keys stand in the call's order instead of the rules'.)
 * 2. From the look at `off` to the new head no function of Python's is called: the GIL is held throughout, so no thread,
 *    signal handler or finalizer gets in between. Without a GIL this module is not built. Values of NumPy and torch are
 *    read before that look; whatever may have run meanwhile, run, ring and selection are looked at once more.
 * 3. No state of its own: it reads `Route` and `Cursor` anew at each call, so forks, ends of runs and new rings are
 *    seen as the Python code sees them. In a process that has joined a run of another one, it looks also at a word in
 *    shared memory that changes when runs begin and end there, and has Python look closer (`Channel.renew`).
 */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <limits.h>
#include <stdint.h>
#include <string.h>
#include <time.h>

#include "device.h"
#include "msgpack.h"
#include "numbers.h"
#include "state.h"

#ifdef Py_GIL_DISABLED
#error "the hot path in C relies on the GIL"
#endif
#if PY_BIG_ENDIAN
#error "the ring is little-endian"
#endif

enum {
    HEAD = 8,     /* index of the head among the ring's 64-bit words; see ring_format.py */
    INTERFACE = 4 /* between this file and the Python code; native.py asks for it */
};

/* -- Log ------------------------------------------------------------------------------------------------------------ */

typedef struct {
    PyObject_HEAD
    PyObject *pointer, *own, *otherwise, *encode, *encode_checked;
    PyObject *shared_name, *put_slowly_name, *sampled_name, *renew_name;
    PyTypeObject *cursor_type, *route_type, *group_type, *selector_type, *slots_type;
    Numbers numbers;
} Log;

/* The values of a call that are on a GPU: found while it is encoded, and queued when all of it is known to be good. */
typedef struct {
    const Route *route;
    Cursor *ring;
    Slots *slots;
    Py_ssize_t count;
    Copy copies[COPIES_MAX];
    PyObject *tensors[COPIES_MAX]; /* held until their copies are queued */
    uint8_t *places[COPIES_MAX];   /* where they stand in the row */
} Remote;

/* What a call says, once it is known to be an ordinary one. */
typedef struct {
    PyObject *metrics;        /* a dictionary, or NULL */
    PyObject *step;           /* an integer, or NULL */
    PyObject *const *values;  /* of the keywords */
    PyObject *names;          /* of the keywords, `step` among them; or NULL */
    Py_ssize_t step_at;       /* where it is among them, or -1 */
    Py_ssize_t count;         /* of metrics */
    int foreign;              /* a value had to be asked for its number: other code may have run since the call began */
    Remote *remote;           /* takes values on a GPU; NULL: they are not for us */
} Call;

static inline int
is_step(PyObject *name)
{
    return PyUnicode_GET_LENGTH(name) == 4 && PyUnicode_CompareWithASCIIString(name, "step") == 0;
}

/* Whether a keyword has the name of an entry of the dictionary, whose place it would take; or nobody can say. */
static inline int
names_twice(PyObject *metrics, PyObject *names)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(names); i++) {
        if (PyDict_Contains(metrics, PyTuple_GET_ITEM(names, i)) != 0) {
            return 1;
        }
    }
    return 0;
}

/* Whether the call comes in one of the usual ways: a dictionary, keywords or both, and an integer as step. */
static inline int
understand(PyObject *const *args, Py_ssize_t positional, PyObject *names, Call *call)
{
    *call = (Call){.values = args + positional, .names = names, .step_at = -1};
    Py_ssize_t keywords = names == NULL ? 0 : PyTuple_GET_SIZE(names);
    if (positional > 2) {
        return 0;
    }
    if (positional == 2 && args[1] != Py_None) {
        call->step = args[1];
    }
    if (positional >= 1 && args[0] != Py_None) {
        if (!PyDict_CheckExact(args[0])) {
            return 0;
        }
        call->metrics = args[0];
    }
    for (Py_ssize_t i = 0; i < keywords; i++) {
        if (is_step(PyTuple_GET_ITEM(names, i))) {
            if (positional == 2) { /* given twice: Python sorts it out */
                return 0;
            }
            call->step_at = i;
            call->step = call->values[i] == Py_None ? NULL : call->values[i];
            break;
        }
    }
    call->count = keywords - (call->step_at >= 0);
    if (call->metrics != NULL) {
        if (call->count > 0 && names_twice(call->metrics, names)) {
            return 0;
        }
        call->count += PyDict_GET_SIZE(call->metrics);
    }
    /* A map's header has two bytes for the count at most, see `put_map_header`. */
    return call->count <= UINT16_MAX && (call->step == NULL || PyLong_CheckExact(call->step));
}

/* A value on a GPU, in whose stead its place will stand; NULL for any other, perhaps with an error. */
static uint8_t *
put_remote(const Log *self, uint8_t *at, PyObject *value, const Call *call)
{
    Remote *remote = call->remote;
    if (remote == NULL || remote->count == COPIES_MAX || kind_of(&self->numbers, value) != TENSOR) {
        return NULL;
    }
    if (remote->count == 0) {
        PyObject *ring = remote->route->ring, *slots = NULL;
        if (ring != NULL && PyObject_TypeCheck(ring, self->cursor_type)) {
            slots = ((Cursor *)ring)->slots;
        }
        if (slots == NULL || !PyObject_TypeCheck(slots, self->slots_type)) {
            return NULL;
        }
        remote->ring = (Cursor *)ring;
        remote->slots = (Slots *)slots;
    }
    PyObject *held[] = {Py_NewRef(value), Py_NewRef(remote->ring), Py_NewRef(remote->slots)};
    int described = describe(remote->slots, value, &remote->copies[remote->count]);
    if (!described || remote->count > 0) { /* ring and slots are held once for all values */
        Py_DECREF(held[1]);
        Py_DECREF(held[2]);
    }
    if (!described) {
        Py_DECREF(held[0]);
        return NULL;
    }
    remote->tensors[remote->count] = value;
    *at++ = 0xd7;
    *at++ = PLACE_EXT;
    remote->places[remote->count++] = at;
    return at + PLACE_SIZE;
}

/* Lets go of what is held for a call's values on a GPU. Python code may run in here. */
static void
forget_remote(Remote *remote)
{
    if (remote->count > 0) {
        Cursor *ring = remote->ring;
        Slots *slots = remote->slots;
        while (remote->count > 0) {
            Py_DECREF(remote->tensors[--remote->count]);
        }
        Py_DECREF(slots);
        Py_DECREF(ring);
    }
}

/* Has the devices copy their values, and names the places in the row; 0 where that cannot be done. Others may run. */
static int
queue_remote(Remote *remote)
{
    if (!queue_copies(remote->slots, remote->copies, remote->count)) {
        return 0;
    }
    for (Py_ssize_t i = 0; i < remote->count; i++) {
        put_place(remote->places[i], &remote->copies[i]);
    }
    return 1;
}

/* A value that is no plain number; NULL for what is none that is here, perhaps with an error. */
static Py_NO_INLINE uint8_t *
put_foreign(const Log *self, uint8_t *at, PyObject *value, Call *call)
{
    double number;
    call->foreign = 1;
    Py_INCREF(value); /* the dictionary that it stands in may be changed while it is asked */
    uint8_t *behind = number_of(&self->numbers, value, &number) ? put_double(at, number)
                      : PyErr_Occurred()                        ? NULL
                                                                : put_remote(self, at, value, call);
    Py_DECREF(value);
    return behind;
}

/* One key and its value; NULL for what is no number that is here, perhaps with an error. */
static inline uint8_t *
put_entry(const Log *self, uint8_t *at, const uint8_t *end, PyObject *key, PyObject *value, Call *call)
{
    uint8_t *behind = (at = put_key(at, end, key)) == NULL ? NULL : put_plain(at, value);
    return at == NULL || behind != NULL ? behind : put_foreign(self, at, value, call);
}

/* The metrics' keys and values, and where each ends, if asked; NULL when one of them is not for us, perhaps with an
 * error. The dictionary may change while a value is read: what is written has as many entries as the call is said to. */
static inline uint8_t *
put_entries(const Log *self, uint8_t *at, const uint8_t *end, Call *call, uint8_t **ends)
{
    Py_ssize_t written = 0, keywords = call->names == NULL ? 0 : PyTuple_GET_SIZE(call->names);
    if (call->metrics != NULL) {
        PyObject *key, *value;
        for (Py_ssize_t i = 0; at != NULL && written < call->count && PyDict_Next(call->metrics, &i, &key, &value);) {
            at = put_entry(self, at, end, key, value, call);
            if (ends != NULL) {
                ends[written] = at;
            }
            written++;
        }
    }
    for (Py_ssize_t i = 0; at != NULL && i < keywords && written < call->count; i++) {
        if (i != call->step_at) {
            at = put_entry(self, at, end, PyTuple_GET_ITEM(call->names, i), call->values[i], call);
            if (ends != NULL) {
                ends[written] = at;
            }
            written++;
        }
    }
    return written == call->count ? at : NULL;
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
    Py_ssize_t off = ring->off, end = off + ((size + 15) & -8); /* a word before the row, padding to a word behind it */
    /* `off` and `limit` can be set from Python: whatever they are, nothing is written beside the mapping. */
    if (off < 0 || end > limit || end > ring->view.len) {
        return 0;
    }
    ring->off = end;
    uint8_t *memory = ring->view.buf;
    uint64_t word = (uint64_t)size | (uint64_t)adler32(row, size) << 32;
    memcpy(memory + off, &word, sizeof word);
    memcpy(memory + off + sizeof word, row, (size_t)size);
    /* Release: on a machine that reorders stores, the reader must not see the head before the row. */
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
        Py_INCREF(ring); /* Python runs in there, and may give the run another ring */
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

/* Whether the run's rows are put on a ring as they are. */
static inline int
goes_to_ring(const Log *self, const Route *route)
{
    return (route->encode == self->encode || route->encode == self->encode_checked) && route->ring != NULL &&
           PyObject_TypeCheck(route->ring, self->cursor_type);
}

/* As `deliver`, once more and from the beginning, for a call that may have values on a GPU. */
static Py_NO_INLINE int
deliver_remote(const Log *self, Route *route, Call *call, int64_t now, PyObject **result)
{
    uint8_t buffer[PREFIX_MAX + ROW_MAX], prefix[PREFIX_MAX];
    Remote remote;
    remote.route = route;
    remote.count = 0;
    call->remote = &remote;
    const uint8_t *end = put_entries(self, buffer + PREFIX_MAX, buffer + sizeof buffer, call, NULL);
    long long step;
    int done = end == NULL && !forgive();
    /* The copies before the step: a call that is Python's must not have taken one. Looked at last: ring and run. */
    if (end != NULL && remote.count > 0 && queue_remote(&remote) && goes_to_ring(self, route) &&
        route->ring == (PyObject *)remote.ring && step_of(call, route, &step)) {
        Py_ssize_t length = put_prefix(prefix, route->run, step, now, call->count);
        uint8_t *row = buffer + PREFIX_MAX - length;
        memcpy(row, prefix, (size_t)length);
        *result = put(self, route->ring, row, end - row);
        done = 1;
    }
    forget_remote(&remote);
    return done;
}

/* Delivers a call. 0: nothing has happened, and Python's `log` is to do it. 1: done, or an error without a result. */
static inline int
deliver(const Log *self, Route *route, Call *call, int64_t now, PyObject **result)
{
    /* The entries first, behind room for the longest prefix: a call that is Python's must not have taken a step. */
    uint8_t buffer[PREFIX_MAX + ROW_MAX], prefix[PREFIX_MAX];
    const uint8_t *end = put_entries(self, buffer + PREFIX_MAX, buffer + sizeof buffer, call, NULL);
    long long step;
    if (end == NULL) {
        return call->foreign && !PyErr_Occurred() ? deliver_remote(self, route, call, now, result) : !forgive();
    }
    if ((call->foreign && !goes_to_ring(self, route)) || !step_of(call, route, &step)) {
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
    Py_INCREF(latest); /* a key of a class in Python may compare itself, and meanwhile the run may end */
    if (call->metrics != NULL) {
        failed = PyDict_Update(latest, call->metrics) < 0;
    }
    for (Py_ssize_t i = 0, given = call->names == NULL ? 0 : PyTuple_GET_SIZE(call->names); !failed && i < given; i++) {
        if (i != call->step_at) {
            failed = PyDict_SetItem(latest, PyTuple_GET_ITEM(call->names, i), call->values[i]) < 0;
        }
    }
    int done = failed ? !forgive() : PyDict_GET_SIZE(latest) <= route->known;
    Py_DECREF(latest);
    return done;
}

/* The channel of the run that is active here: that of this thread or task, or the one that all others share. */
static inline PyObject *
active_channel(const Log *self)
{
    PyObject *channel = NULL;
    if (self->own != NULL && PyContextVar_Get(self->own, NULL, &channel) < 0) {
        return NULL;
    }
    if (channel == Py_None) {
        Py_CLEAR(channel);
    }
    return channel != NULL ? channel : PyObject_GetAttr(self->pointer, self->shared_name);
}

/* Whether nothing has happened to a run of another process since it was looked at last; if so, Python looks closer. */
static inline int
is_unchanged(const Log *self, const Route *route)
{
    const uint64_t *changes = route->page.buf;
    if (changes == NULL || __atomic_load_n(changes, __ATOMIC_RELAXED) == route->seen) {
        return 1;
    }
    PyObject *looked = PyObject_CallMethodNoArgs((PyObject *)route, self->renew_name);
    Py_XDECREF(looked);
    return 0;
}

static PyObject *
log_log(Log *self, PyObject *const *args, Py_ssize_t positional, PyObject *names)
{
    int64_t now = time_ns(); /* first, so that the cost in the report is that of the whole call */
    PyObject *channel = active_channel(self);
    if (channel == NULL) {
        return NULL;
    }
    int done = 0;
    PyObject *result = NULL;
    Call call;
    if (PyObject_TypeCheck(channel, self->route_type) && understand(args, positional, names, &call)) {
        Route *route = (Route *)channel;
        if (!is_unchanged(self, route)) {
            if (PyErr_Occurred() && !forgive()) {
                Py_DECREF(channel);
                return NULL;
            }
        } else if (goes_to_ring(self, route)) {
            done = deliver(self, route, &call, now, &result);
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
             "log($self, metrics=None, /, step=None, *others, **values)\n--\n\n"
             "Logs metrics of one training step: about a microsecond, and never an exception into training.\n"
             "\n"
             "When it returns, the values survive a `kill -9`; the agent carries them to MLflow, each exactly once.\n"
             "\n"
             "Args:\n"
             "    metrics: Metrics by name, for names that are no Python identifiers (`\"train/loss\"`).\n"
             "    step: Training step; without it, the run's own counter of calls without a step: 0, 1, 2, …\n"
             "    *others: Not for use: what other trackers take there is said to be wrong, and stops nobody.\n"
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
             "    >>> log({\"train/loss\": 0.25, \"train/accuracy\": 0.9}, 7)");

static PyMethodDef log_methods[] = {
    {"log", (PyCFunction)(void (*)(void))log_log, METH_FASTCALL | METH_KEYWORDS, log_doc},
    {NULL},
};

typedef struct {
    PyTypeObject *cursor, *route, *group, *selector, *slots;
} State;

static PyObject *
log_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *pointer, *otherwise, *encode, *encode_checked, *kinds;
    static char *names[] = {"pointer", "otherwise", "encode", "encode_checked", "kinds", NULL};
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "OOOOO!", names, &pointer, &otherwise, &encode, &encode_checked,
                                     &PyDict_Type, &kinds)) {
        return NULL;
    }
    const State *state = PyType_GetModuleState(type);
    Log *self = state == NULL ? NULL : (Log *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    self->pointer = Py_NewRef(pointer);
    self->own = PyObject_GetAttrString(pointer, "own");
    if (self->own == NULL || (self->own != Py_None && !PyContextVar_CheckExact(self->own))) {
        PyErr_SetString(PyExc_TypeError, "pointer.own is a ContextVar or None");
        Py_DECREF(self);
        return NULL;
    }
    if (self->own == Py_None) {
        Py_CLEAR(self->own);
    }
    self->otherwise = Py_NewRef(otherwise);
    self->encode = Py_NewRef(encode);
    self->encode_checked = Py_NewRef(encode_checked);
    self->cursor_type = (PyTypeObject *)Py_NewRef(state->cursor);
    self->route_type = (PyTypeObject *)Py_NewRef(state->route);
    self->group_type = (PyTypeObject *)Py_NewRef(state->group);
    self->selector_type = (PyTypeObject *)Py_NewRef(state->selector);
    self->slots_type = (PyTypeObject *)Py_NewRef(state->slots);
    self->shared_name = PyUnicode_InternFromString("shared");
    self->put_slowly_name = PyUnicode_InternFromString("put_slowly");
    self->sampled_name = PyUnicode_InternFromString("sampled");
    self->renew_name = PyUnicode_InternFromString("renew");
    int interned = self->shared_name && self->put_slowly_name && self->sampled_name && self->renew_name;
    if (!numbers_init(&self->numbers, kinds) || !interned) {
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
    Py_VISIT(self->own);
    Py_VISIT(self->otherwise);
    Py_VISIT(self->encode);
    Py_VISIT(self->encode_checked);
    Py_VISIT(self->numbers.kinds);
    return 0;
}

static void
log_dealloc(Log *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->pointer);
    Py_XDECREF(self->own);
    Py_XDECREF(self->otherwise);
    Py_XDECREF(self->encode);
    Py_XDECREF(self->encode_checked);
    numbers_clear(&self->numbers);
    Py_XDECREF(self->shared_name);
    Py_XDECREF(self->put_slowly_name);
    Py_XDECREF(self->sampled_name);
    Py_XDECREF(self->renew_name);
    Py_XDECREF(self->cursor_type);
    Py_XDECREF(self->route_type);
    Py_XDECREF(self->group_type);
    Py_XDECREF(self->selector_type);
    Py_XDECREF(self->slots_type);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyMemberDef log_members[] = {
    {"pointer", T_OBJECT_EX, offsetof(Log, pointer), READONLY, "What it follows."},
    {NULL},
};

static PyType_Slot log_slots[] = {
    {Py_tp_members, log_members},
    {Py_tp_doc, "A `log()` that follows `pointer`; what it does not do itself, `otherwise` does."},
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

/* -- a counter that processes share ---------------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    Py_buffer word;
} Steps;

static PyObject *
steps_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *word;
    if (!PyArg_ParseTuple(args, "O", &word)) {
        return NULL;
    }
    Steps *self = (Steps *)type->tp_alloc(type, 0);
    if (self == NULL) {
        return NULL;
    }
    if (PyObject_GetBuffer(word, &self->word, PyBUF_WRITABLE) < 0) {
        Py_DECREF(self);
        return NULL;
    }
    /* Aligned, or it would not be one word to the other processes. */
    if (self->word.len < (Py_ssize_t)sizeof(uint64_t) || (uintptr_t)self->word.buf % sizeof(uint64_t) != 0) {
        PyErr_SetString(PyExc_ValueError, "no 64-bit word");
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static void
steps_dealloc(Steps *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyBuffer_Release(&self->word);
    type->tp_free((PyObject *)self);
    Py_DECREF(type);
}

static PyObject *
steps_next(Steps *self)
{
    /* Relaxed: each process gets a number of its own; nothing else in memory goes by it. */
    return PyLong_FromUnsignedLongLong(__atomic_fetch_add((uint64_t *)self->word.buf, 1, __ATOMIC_RELAXED));
}

static PyType_Slot steps_slots[] = {
    {Py_tp_doc, "Steps(word, /)\n--\n\n0, 1, 2, ... from a 64-bit word that processes share."},
    {Py_tp_new, steps_new},
    {Py_tp_dealloc, steps_dealloc},
    {Py_tp_iter, PyObject_SelfIter},
    {Py_tp_iternext, steps_next},
    {0, NULL},
};

static PyType_Spec steps_spec = {
    .name = "tailrace_agent._native.Steps",
    .basicsize = sizeof(Steps),
    .flags = Py_TPFLAGS_DEFAULT,
    .slots = steps_slots,
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
    state->slots = add_type(module, &slots_spec);
    PyTypeObject *log = add_type(module, &log_spec), *steps = add_type(module, &steps_spec);
    Py_XDECREF(log);
    Py_XDECREF(steps);
    if (PyModule_AddIntConstant(module, "INTERFACE", INTERFACE) < 0) {
        return -1;
    }
    int whole = state->cursor && state->route && state->group && state->selector && state->slots && log && steps;
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
    Py_VISIT(state->slots);
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
    Py_CLEAR(state->slots);
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
