/* Rows in MessagePack, byte for byte as the encoder in Python writes them. */

#ifndef TAILRACE_MSGPACK_H
#define TAILRACE_MSGPACK_H

#include <Python.h>
#include <stdint.h>
#include <string.h>

enum {
    ROW_MAX = 2048,     /* bytes of keys and values; longer rows go to Python */
    PREFIX_MAX = 32,    /* array, run, step, time, map: 1 + 9 + 9 + 9 + 3 bytes at most */
    ENTRY_EXTRA = 2 + 10 /* what a key's length and a value take beside the key itself */
};

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
static inline uint8_t *
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

static inline uint8_t *
put_double(uint8_t *at, double number)
{
    uint64_t bits;
    memcpy(&bits, &number, sizeof bits);
    return put_big_endian(at, 0xcb, bits, 8);
}

/* A key, with room behind it for any value; NULL for what is none, or finds no room before `end`. */
static inline uint8_t *
put_key(uint8_t *at, const uint8_t *end, PyObject *key)
{
    Py_ssize_t length;
    const char *text;
    if (!PyUnicode_CheckExact(key) || (text = PyUnicode_AsUTF8AndSize(key, &length)) == NULL) {
        PyErr_Clear(); /* a lone surrogate, for instance: the encoder in Python meets it, and says so */
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
    return at + length;
}

/* A plain number; NULL for anything else. */
static inline uint8_t *
put_plain(uint8_t *at, PyObject *value)
{
    if (is_float(value)) {
        return put_double(at, PyFloat_AS_DOUBLE(value));
    }
    if (PyLong_CheckExact(value)) { /* exact: True is an integer, too, and is written as what it is */
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

static inline uint8_t *
put_map_header(uint8_t *at, Py_ssize_t count)
{
    if (count < 16) {
        *at++ = (uint8_t)(0x80 | count);
        return at;
    }
    return put_big_endian(at, 0xde, (uint64_t)count, 2);
}

/* What stands before the entries; its length. */
static inline Py_ssize_t
put_prefix(uint8_t prefix[PREFIX_MAX], long long run, long long step, int64_t now, Py_ssize_t count)
{
    uint8_t *at = prefix;
    *at++ = 0x94;
    at = put_integer(at, run);
    at = put_integer(at, step);
    at = put_integer(at, now);
    return put_map_header(at, count) - prefix;
}

#endif
