/* What the hot path in C shares with Python: base classes that hold what a `log()` reads and moves.
 *
 * `Cursor` is the base of `RingWriter`, `Route` that of `Channel`, `Selector` that of `Selection`, `Group` that of its
 * groups. tailrace_agent/ipc/native.py has each in Python, for where this module could not be built.
 */

#ifndef TAILRACE_STATE_H
#define TAILRACE_STATE_H

#include <Python.h>
#include <structmember.h>
#include <stdint.h>
#include <string.h>

/* Clears an error that Python's `log` will meet again, and say; 0 if it is none of those (Ctrl-C) and has to get out. */
static inline int
forgive(void)
{
    if (PyErr_Occurred() && !PyErr_ExceptionMatches(PyExc_Exception)) {
        return 0;
    }
    PyErr_Clear();
    return 1;
}

/* -- Cursor: where the next frame goes ----------------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    Py_ssize_t off, limit, hard;
    PyObject *memory, *slots;
    Py_buffer view;
} Cursor;

static PyMemberDef cursor_members[] = {
    {"off", T_PYSSIZET, offsetof(Cursor, off), 0, "Where the next frame begins."},
    {"limit", T_PYSSIZET, offsetof(Cursor, limit), 0, "How far it may reach without a look at anything else."},
    {"hard", T_PYSSIZET, offsetof(Cursor, hard), 0, "How far there is room, while `limit` is not negative."},
    {"slots", T_OBJECT, offsetof(Cursor, slots), 0, "Where devices write the values of its rows; None: nowhere."},
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
    Py_VISIT(self->slots);
    return 0;
}

static int
cursor_clear(Cursor *self)
{
    Py_CLEAR(self->slots);
    if (self->memory != NULL) {
        self->limit = -1; /* who still has it, a finalizer in a cycle, say, finds no room in C any more */
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
    PyObject *ring, *encode, *steps, *latest, *selection;
    Py_buffer page; /* of a run of another process: its first word changes when runs begin and end there */
    unsigned long long seen;
} Route;

static PyMemberDef route_members[] = {
    {"run", T_LONGLONG, offsetof(Route, run), 0, NULL},
    {"known", T_PYSSIZET, offsetof(Route, known), 0, NULL},
    {"ring", T_OBJECT_EX, offsetof(Route, ring), 0, NULL},
    {"encode", T_OBJECT_EX, offsetof(Route, encode), 0, NULL},
    {"steps", T_OBJECT_EX, offsetof(Route, steps), 0, NULL},
    {"latest", T_OBJECT_EX, offsetof(Route, latest), 0, NULL},
    {"selection", T_OBJECT_EX, offsetof(Route, selection), 0, NULL},
    {"seen", T_ULONGLONG, offsetof(Route, seen), 0, NULL},
    {NULL},
};

static PyObject *
route_get_page(Route *self, void *unused)
{
    return Py_NewRef(self->page.buf == NULL ? Py_None : self->page.obj);
}

static int
route_set_page(Route *self, PyObject *page, void *unused)
{
    Py_buffer view = {0};
    if (page != NULL && page != Py_None) {
        if (PyObject_GetBuffer(page, &view, PyBUF_SIMPLE) < 0) {
            return -1;
        }
        /* Its first word is read at once, as another process writes it. */
        if (view.len < (Py_ssize_t)sizeof(uint64_t) || (uintptr_t)view.buf % sizeof(uint64_t) != 0) {
            PyBuffer_Release(&view);
            PyErr_SetString(PyExc_ValueError, "no page");
            return -1;
        }
    }
    Py_buffer before = self->page; /* released last, since Python may run then and look at the page */
    self->page = view;
    if (before.buf != NULL) {
        PyBuffer_Release(&before);
    }
    return 0;
}

static PyGetSetDef route_getset[] = {
    {"page", (getter)route_get_page, (setter)route_set_page, NULL},
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
    Py_VISIT(self->selection);
    /* Not the page: a memoryview that the collector has cleared while it is lent out cannot be given back any more. It
     * leads to no channel, so nothing is kept alive by that. */
    return 0;
}

static int
route_clear(Route *self)
{
    route_set_page(self, NULL, NULL);
    Py_CLEAR(self->ring);
    Py_CLEAR(self->encode);
    Py_CLEAR(self->steps);
    Py_CLEAR(self->latest);
    Py_CLEAR(self->selection);
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
    {Py_tp_getset, route_getset},
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

/* -- Group: keys that are logged together under one rule ------------------------------------------------------------ */

typedef struct {
    PyObject_HEAD
    Py_ssize_t every, left;
    long long interval, logged_at;
    PyObject *held, *parts, *owners;
    uint8_t *row; /* what is held, where C holds it: newer than `held` */
    Py_ssize_t row_size, row_room;
} Group;

static PyMemberDef group_members[] = {
    {"every", T_PYSSIZET, offsetof(Group, every), 0, NULL},
    {"left", T_PYSSIZET, offsetof(Group, left), 0, NULL},
    {"interval", T_LONGLONG, offsetof(Group, interval), 0, NULL},
    {"logged_at", T_LONGLONG, offsetof(Group, logged_at), 0, NULL},
    {"parts", T_OBJECT_EX, offsetof(Group, parts), 0, NULL},
    {"owners", T_OBJECT_EX, offsetof(Group, owners), 0, NULL},
    {NULL},
};

static PyObject *
group_get_held(Group *self, void *unused)
{
    if (self->row_size > 0) {
        return PyBytes_FromStringAndSize((const char *)self->row, self->row_size);
    }
    return Py_NewRef(self->held == NULL ? Py_None : self->held);
}

static int
group_set_held(Group *self, PyObject *held, void *unused)
{
    self->row_size = 0; /* what C held is older than this */
    Py_XINCREF(held);
    Py_XSETREF(self->held, held);
    return 0;
}

static PyGetSetDef group_getset[] = {
    {"held", (getter)group_get_held, (setter)group_set_held, "The newest one that was skipped."},
    {NULL},
};

static int
group_traverse(Group *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->held);
    Py_VISIT(self->parts);
    Py_VISIT(self->owners);
    return 0;
}

static int
group_clear(Group *self)
{
    Py_CLEAR(self->held);
    Py_CLEAR(self->parts);
    Py_CLEAR(self->owners);
    return 0;
}

static void
group_dealloc(Group *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    group_clear(self);
    PyMem_Free(self->row);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot group_slots[] = {
    {Py_tp_doc, "Keys that are logged together, and how far they are."},
    {Py_tp_members, group_members},
    {Py_tp_getset, group_getset},
    {Py_tp_traverse, group_traverse},
    {Py_tp_clear, group_clear},
    {Py_tp_dealloc, group_dealloc},
    {0},
};

static PyType_Spec group_spec = {
    .name = "tailrace_agent._native.Group",
    .basicsize = sizeof(Group),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = group_slots,
};

/* -- Selector: which values of a run are logged ---------------------------------------------------------------------- */

typedef struct {
    PyObject_HEAD
    PyObject *encode, *chooser, *ring, *plans, *names;
} Selector;

static PyMemberDef selector_members[] = {
    {"encode", T_OBJECT_EX, offsetof(Selector, encode), 0, NULL},
    {"chooser", T_OBJECT_EX, offsetof(Selector, chooser), 0, NULL},
    {"ring", T_OBJECT_EX, offsetof(Selector, ring), 0, NULL},
    {"plans", T_OBJECT_EX, offsetof(Selector, plans), 0, NULL},
    {"names", T_OBJECT_EX, offsetof(Selector, names), 0, NULL},
    {NULL},
};

static int
selector_traverse(Selector *self, visitproc visit, void *arg)
{
    Py_VISIT(Py_TYPE(self));
    Py_VISIT(self->encode);
    Py_VISIT(self->chooser);
    Py_VISIT(self->ring);
    Py_VISIT(self->plans);
    Py_VISIT(self->names);
    return 0;
}

static int
selector_clear(Selector *self)
{
    Py_CLEAR(self->encode);
    Py_CLEAR(self->chooser);
    Py_CLEAR(self->ring);
    Py_CLEAR(self->plans);
    Py_CLEAR(self->names);
    return 0;
}

static void
selector_dealloc(Selector *self)
{
    PyTypeObject *type = Py_TYPE(self);
    PyObject_GC_UnTrack(self);
    selector_clear(self);
    type->tp_free(self);
    Py_DECREF(type);
}

static PyType_Slot selector_slots[] = {
    {Py_tp_doc, "Which values of a run are logged."},
    {Py_tp_members, selector_members},
    {Py_tp_traverse, selector_traverse},
    {Py_tp_clear, selector_clear},
    {Py_tp_dealloc, selector_dealloc},
    {0},
};

static PyType_Spec selector_spec = {
    .name = "tailrace_agent._native.Selector",
    .basicsize = sizeof(Selector),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .slots = selector_slots,
};

#endif
