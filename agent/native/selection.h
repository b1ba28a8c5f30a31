/* Selective logging in C: what `tailrace._log.selection.Selection` does with numbers. A part of log.c.
 *
 * A set of keys has a plan: one group, or several with the owner of each key. Groups that are due go on the ring in one
 * row; of each of the others the row is held, in memory of its own that the next one overwrites. New sets of keys, and
 * values that are not plain, are Python's. So is the end of the run, which logs what is held.
 */

enum {
    KEYS_MAX = 64,   /* of arrays on the stack; a call with more is Python's */
    NAMES_MAX = 4096 /* keyword tuples that are remembered: a program may make new ones at every call */
};

/* The group of a set of keys, as a new reference; NULL if there is none, or with an error. Keywords are looked up by
 * their tuple as it came. Python code may run in here, finalizers and keys of classes of their own, and take the group
 * out of the dictionary that it was found in. */
static Group *
plan_of(const Log *self, Selector *selector, const Call *call)
{
    PyObject *keys = NULL, *plan = NULL;
    if (selector->plans == NULL || selector->names == NULL) {
        return NULL;
    }
    if (call->metrics != NULL) {
        keys = PySequence_Tuple(call->metrics);
    } else if (call->names != NULL) {
        plan = Py_XNewRef(PyDict_GetItemWithError(selector->names, call->names));
        if (plan == NULL && !PyErr_Occurred()) {
            Py_ssize_t size = PyTuple_GET_SIZE(call->names), at = call->step_at < 0 ? size : call->step_at;
            PyObject *before = PyTuple_GetSlice(call->names, 0, at), *after = PyTuple_GetSlice(call->names, at + 1, size);
            keys = before != NULL && after != NULL ? PySequence_Concat(before, after) : NULL;
            Py_XDECREF(before);
            Py_XDECREF(after);
        }
    }
    if (keys != NULL) {
        plan = Py_XNewRef(PyDict_GetItemWithError(selector->plans, keys));
        if (plan != NULL && call->metrics == NULL && PyDict_GET_SIZE(selector->names) < NAMES_MAX) {
            PyDict_SetItem(selector->names, call->names, plan);
        }
        Py_DECREF(keys);
    }
    if (plan != NULL && (PyErr_Occurred() || !PyObject_TypeCheck(plan, self->group_type))) {
        Py_CLEAR(plan);
    }
    return (Group *)plan;
}

/* Whether a group's value is to be logged now; if so it counts as logged. As `_Group.passes`. */
static inline int
is_due(Group *group, int64_t now)
{
    /* A clock that was put back makes nothing wait. Unsigned, since the difference may be beyond a signed one. */
    int waits = now >= group->logged_at && (uint64_t)now - (uint64_t)group->logged_at < (uint64_t)group->interval;
    if (group->left > 0 || waits) {
        group->left--;
        return 0;
    }
    group->left = group->every - 1;
    group->logged_at = now;
    group->row_size = 0;
    return 1;
}

/* The entries of one owner behind the prefix of a row; its size. `owner` below zero takes those of all that are due. */
static Py_ssize_t
gather(uint8_t *row, long long run, long long step, int64_t now, const Call *call, const uint8_t *entries,
       uint8_t *const *ends, const uint8_t *owners, int owner, const uint8_t *due)
{
    Py_ssize_t count = 0, size;
    for (Py_ssize_t i = 0; i < call->count; i++) {
        count += owner < 0 ? due[owners[i]] : owners[i] == owner;
    }
    if (count == 0) {
        return 0;
    }
    size = put_prefix(row, run, step, now, count);
    for (Py_ssize_t i = 0; i < call->count; i++) {
        if (owner < 0 ? due[owners[i]] : owners[i] == owner) {
            const uint8_t *from = i == 0 ? entries : ends[i - 1];
            memcpy(row + size, from, (size_t)(ends[i] - from));
            size += ends[i] - from;
        }
    }
    return size;
}

/* Holds a row. Without memory for it nothing is held, and the value before it neither. */
static void
hold(Group *group, const uint8_t *row, Py_ssize_t size)
{
    group->row_size = 0;
    if (size == 0) {
        return;
    }
    if (size > group->row_room) {
        uint8_t *memory = PyMem_Realloc(group->row, (size_t)size);
        if (memory == NULL) {
            return;
        }
        group->row = memory;
        group->row_room = size;
    }
    memcpy(group->row, row, (size_t)size);
    group->row_size = size;
}

/* The groups of a plan, and who owns each key. 0 if it is too large for here. */
static int
parts_of(const Log *self, Group *plan, const Call *call, Group **parts, const uint8_t **owners)
{
    static const uint8_t of_one[KEYS_MAX];
    Py_ssize_t count = plan->parts != NULL && PyTuple_CheckExact(plan->parts) ? PyTuple_GET_SIZE(plan->parts) : 0;
    if (call->count > KEYS_MAX || count > KEYS_MAX) {
        return 0;
    }
    if (count == 0) {
        parts[0] = plan;
        *owners = of_one;
        return 1;
    }
    if (plan->owners == NULL || !PyBytes_CheckExact(plan->owners) || PyBytes_GET_SIZE(plan->owners) != call->count) {
        return 0;
    }
    *owners = (const uint8_t *)PyBytes_AS_STRING(plan->owners);
    for (Py_ssize_t i = 0; i < count; i++) {
        parts[i] = (Group *)PyTuple_GET_ITEM(plan->parts, i);
        if (!PyObject_TypeCheck((PyObject *)parts[i], self->group_type)) {
            return 0;
        }
    }
    for (Py_ssize_t i = 0; i < call->count; i++) {
        if ((*owners)[i] >= count) {
            return 0;
        }
    }
    return (int)count;
}

/* Whether the run is still as it was, and its ring one that C can write to. */
static inline int
is_ours(const Log *self, const Route *route, const Selector *selector, const Call *call)
{
    return route->encode == selector->chooser && selector->ring != NULL &&
           (selector->encode == self->encode || selector->encode == self->encode_checked) &&
           PyObject_TypeCheck(selector->ring, self->cursor_type) && call->count > 0 && call->count <= KEYS_MAX &&
           (call->metrics == NULL || PyDict_GET_SIZE(call->metrics) == call->count);
}

static int
deliver_planned(const Log *self, Route *route, Selector *selector, Group *plan, Call *call, int64_t now,
                PyObject **result)
{
    uint8_t entries[ROW_MAX], row[PREFIX_MAX + ROW_MAX], due[KEYS_MAX], *ends[KEYS_MAX];
    const uint8_t *owners;
    Group *parts[KEYS_MAX];
    PyObject *overtaken[KEYS_MAX];
    long long step;
    int count;
    if (!is_ours(self, route, selector, call)) {
        return 0;
    }
    if (put_entries(self, entries, entries + sizeof entries, call, ends) == NULL) {
        return !forgive();
    }
    /* Only now: what a value is asked may have let the run end. */
    if ((call->foreign && (route->selection != (PyObject *)selector || !is_ours(self, route, selector, call))) ||
        !(count = parts_of(self, plan, call, parts, &owners)) || !step_of(call, route, &step)) {
        return 0;
    }
    for (int i = 0; i < count; i++) { /* no Python code from here to the put */
        due[i] = (uint8_t)is_due(parts[i], now);
        if (!due[i]) {
            hold(parts[i], row, gather(row, route->run, step, now, call, entries, ends, owners, i, due));
        }
        overtaken[i] = parts[i]->held;
        parts[i]->held = NULL;
    }
    Py_ssize_t size = gather(row, route->run, step, now, call, entries, ends, owners, -1, due);
    *result = size > 0 ? put(self, selector->ring, row, size) : Py_NewRef(Py_None);
    for (int i = 0; i < count; i++) { /* not before: a release may run Python code */
        Py_XDECREF(overtaken[i]);
    }
    return 1;
}

/* As `deliver`, for a run of which not everything is logged. */
static int
deliver_selected(const Log *self, Route *route, Call *call, int64_t now, PyObject **result)
{
    Selector *selector = (Selector *)Py_NewRef(route->selection); /* other code may run below, and end the run */
    Group *plan = is_ours(self, route, selector, call) ? plan_of(self, selector, call) : NULL;
    int done = plan == NULL ? !forgive() : deliver_planned(self, route, selector, plan, call, now, result);
    Py_XDECREF(plan);
    Py_DECREF(selector);
    return done;
}
