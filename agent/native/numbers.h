/* Numbers that are no plain ones: NumPy's scalars, its arrays of one element, torch's tensors on the CPU. A part of log.c.
 *
 * Which types these are is learned by Python (tailrace._values.numbers), so nothing is imported for it here: a type is
 * looked up by itself, so a class that derives from one of them is Python's. What a value is converted to is what
 * `to_number` makes of it, a float. Their methods may let other threads run, or code in Python: whoever calls this looks
 * anew at everything afterwards.
 */

typedef enum {
    UNKNOWN = 0,
    SCALAR = 1, /* in NumPy's C: a float by itself */
    ARRAY = 2,  /* `item()` is a number, of its own kind */
    TENSOR = 3  /* the same, if it is on the CPU */
} Kind;

typedef struct {
    PyObject *kinds; /* a dictionary: Kind by type */
    PyObject *item_name, *is_cpu_name, *dtype_name, *kind_name;
} Numbers;

static inline int
numbers_init(Numbers *self, PyObject *kinds)
{
    self->kinds = Py_NewRef(kinds);
    self->item_name = PyUnicode_InternFromString("item");
    self->is_cpu_name = PyUnicode_InternFromString("is_cpu");
    self->dtype_name = PyUnicode_InternFromString("dtype");
    self->kind_name = PyUnicode_InternFromString("kind");
    return self->item_name && self->is_cpu_name && self->dtype_name && self->kind_name;
}

static inline void
numbers_clear(Numbers *self)
{
    Py_CLEAR(self->kinds);
    Py_CLEAR(self->item_name);
    Py_CLEAR(self->is_cpu_name);
    Py_CLEAR(self->dtype_name);
    Py_CLEAR(self->kind_name);
}

static inline Kind
kind_of(const Numbers *self, PyObject *value)
{
    PyObject *learned = PyDict_GetItemWithError(self->kinds, (PyObject *)Py_TYPE(value));
    return learned != NULL && PyLong_CheckExact(learned) ? (Kind)PyLong_AsLong(learned) : UNKNOWN;
}

/* Whether a tensor is on the CPU: any other one would be waited for. */
static inline int
is_here(const Numbers *self, PyObject *tensor)
{
    PyObject *on_cpu = PyObject_GetAttr(tensor, self->is_cpu_name);
    int found = on_cpu == Py_True;
    Py_XDECREF(on_cpu);
    return found;
}

/* Whether an array holds integers: those of times give some as well, which are no metrics. */
static inline int
holds_integers(const Numbers *self, PyObject *array)
{
    PyObject *dtype = PyObject_GetAttr(array, self->dtype_name);
    PyObject *kind = dtype == NULL ? NULL : PyObject_GetAttr(dtype, self->kind_name);
    int found = kind != NULL && PyUnicode_CheckExact(kind) && PyUnicode_GET_LENGTH(kind) == 1 &&
                (PyUnicode_READ_CHAR(kind, 0) == 'i' || PyUnicode_READ_CHAR(kind, 0) == 'u');
    Py_XDECREF(dtype);
    Py_XDECREF(kind);
    return found;
}

/* What a plain number is as a float; 0 for anything else, and for one that is too large. */
static inline int
as_double(PyObject *plain, double *number)
{
    if (PyFloat_CheckExact(plain)) {
        *number = PyFloat_AS_DOUBLE(plain);
        return 1;
    }
    if (PyBool_Check(plain)) {
        *number = plain == Py_True;
        return 1;
    }
    *number = PyLong_CheckExact(plain) ? PyLong_AsDouble(plain) : -1.0;
    return PyLong_CheckExact(plain) && !(*number == -1.0 && PyErr_Occurred());
}

/* A value as a number, which somebody has to hold meanwhile; 0 if it is not for us, perhaps with an error. */
static int
number_of(const Numbers *self, PyObject *value, double *number)
{
    PyObject *plain = NULL;
    int read = 0;
    switch (kind_of(self, value)) {
    case UNKNOWN:
        break;
    case SCALAR:
        plain = PyNumber_Float(value);
        break;
    case TENSOR:
        plain = is_here(self, value) ? PyObject_CallMethodNoArgs(value, self->item_name) : NULL;
        break;
    case ARRAY:
        plain = PyObject_CallMethodNoArgs(value, self->item_name);
        if (plain != NULL && PyLong_CheckExact(plain) && !holds_integers(self, value)) {
            Py_CLEAR(plain);
        }
    }
    if (plain != NULL) {
        read = as_double(plain, number);
        Py_DECREF(plain);
    }
    return read;
}
