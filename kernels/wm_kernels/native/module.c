/* Loops over rows in host memory. After a network has run, every call into a large library starts on cold caches; one
 * short loop takes the place of a dozen such calls. The functions take addresses, which __init__.py has checked. */

#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    int64_t rows, width, num_columns; /* B, N, A */
    const void *values;               /* (B, N) */
    int64_t whole, offset;            /* whether actions are int64, and the first class index */
    const void *action;               /* (B, A) */
    const void *low, *high;           /* (A,) */
    const int64_t *columns;           /* (A,) */
    void *out;                        /* (B, N) */
} Write;

typedef struct {
    int64_t rows, width;          /* B, N */
    const void *values;           /* (B, N) */
    int64_t reward_column, terminated_column; /* -1 for none */
    int64_t clock, horizon;       /* after this step; 0 for none */
    int64_t *began, *episode;     /* (B,), written */
    void *returns;                /* (B,), written */
    const void *bank;             /* (M, N), or null: nothing begins */
    const int64_t *places, *first; /* (B, depth), (B,) */
    int64_t depth;
    const int64_t *picked;        /* (num_picked,) */
    int64_t num_picked;
    void *observation, *fresh;    /* (B, num_picked) before and after resets, or null */
    void *state;                  /* (B, N) after resets, written if a row begins */
    void *reward;                 /* (B,) */
    uint8_t *flags;               /* (6, B): terminated, truncated, finished, and three times false */
    int64_t *lengths;             /* (B,) before resets, or null */
    void *sums;                   /* (B,) likewise */
} Step;

#define REAL float
#define WORD uint32_t
#define EXPONENT UINT32_C(0x7f800000)
#define NAME(name) name##_float32
#include "rows.h"
#undef REAL
#undef WORD
#undef EXPONENT
#undef NAME

#define REAL double
#define WORD uint64_t
#define EXPONENT UINT64_C(0x7ff0000000000000)
#define NAME(name) name##_float64
#include "rows.h"

/* Whether every row that ends has a place drawn for its next episode. */
static int places_reach(const Step *s, const int64_t *ended, int64_t count)
{
    for (int64_t k = 0; k < count; k++) {
        int64_t ahead = s->episode[ended[k]] + 1 - s->first[ended[k]];
        if (ahead < 0 || ahead >= s->depth)
            return 0;
    }
    return 1;
}

/* (rows, the episodes that they begin) as two lists. */
static PyObject *beginning(const Step *s, const int64_t *ended, int64_t count)
{
    PyObject *rows = PyList_New(0), *episodes = PyList_New(0), *both = NULL;
    for (int64_t k = 0; rows && episodes && k < count; k++) {
        PyObject *row = PyLong_FromLongLong(ended[k]), *episode = PyLong_FromLongLong(s->episode[ended[k]] + 1);
        int failed = !row || !episode || PyList_Append(rows, row) || PyList_Append(episodes, episode);
        Py_XDECREF(row);
        Py_XDECREF(episode);
        if (failed)
            goto done;
    }
    if (rows && episodes)
        both = PyTuple_Pack(2, rows, episodes);
done:
    Py_XDECREF(rows);
    Py_XDECREF(episodes);
    return both;
}

/* `count` whole numbers out of the arguments, or an error. */
static int whole_numbers(int64_t *out, Py_ssize_t count, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != count) {
        PyErr_Format(PyExc_TypeError, "takes %zd arguments, got %zd", count, nargs);
        return 0;
    }
    for (Py_ssize_t i = 0; i < count; i++)
        out[i] = PyLong_AsLongLong(args[i]);
    return !PyErr_Occurred();
}

#define ADDRESS(i) ((void *)(intptr_t)a[i])

static PyObject *finish_rows(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    int64_t a[24];
    (void)self;
    if (!whole_numbers(a, 24, args, nargs))
        return NULL;
    int wide = a[0] == 8;
    Step s = {
        a[1], a[2], ADDRESS(3), a[4], a[5], a[6], a[7], ADDRESS(8), ADDRESS(9), ADDRESS(10), ADDRESS(11),
        ADDRESS(12), ADDRESS(13), a[14], ADDRESS(15), a[16], ADDRESS(17), ADDRESS(18), ADDRESS(19), ADDRESS(20),
        ADDRESS(21), ADDRESS(22), ADDRESS(23),
    };
    if (!(wide ? all_finite_float64(s.values, s.rows * s.width) : all_finite_float32(s.values, s.rows * s.width)))
        Py_RETURN_NONE;
    int64_t *ended = PyMem_Malloc((size_t)s.rows * sizeof *ended);
    if (!ended)
        return PyErr_NoMemory();
    PyObject *result = NULL;
    int64_t count = wide ? judge_float64(&s, s.flags, ended) : judge_float32(&s, s.flags, ended);
    if (s.bank && !places_reach(&s, ended, count)) {
        PyErr_SetString(PyExc_IndexError, "a row begins an episode whose start has not been drawn");
    } else if ((result = beginning(&s, ended, s.bank ? count : 0))) {
        /* Nothing can fail from here on. */
        (wide ? count_float64 : count_float32)(&s);
        (wide ? restart_float64 : restart_float32)(&s, ended, count);
    }
    PyMem_Free(ended);
    return result;
}

static PyObject *write_columns(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    int64_t a[12];
    (void)self;
    if (!whole_numbers(a, 12, args, nargs))
        return NULL;
    Write w = {a[1], a[2], a[3], ADDRESS(4), a[5], a[6], ADDRESS(7), ADDRESS(8), ADDRESS(9), ADDRESS(10), ADDRESS(11)};
    return PyBool_FromLong(a[0] == 8 ? write_float64(&w) : write_float32(&w));
}

#define MOST_SOURCES 16

static PyObject *copy_steps(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    int64_t a[5], sources[2 * MOST_SOURCES];
    Py_ssize_t given = nargs - 7;
    (void)self;
    if (given < 0 || given > 2 * MOST_SOURCES)
        return PyErr_Format(PyExc_TypeError, "copy_steps takes at most %d sources", MOST_SOURCES);
    if (!whole_numbers(a, 5, args, 5) || !whole_numbers(sources, given, args + 7, given))
        return NULL;
    char *to = ADDRESS(0);
    int64_t rows = a[1], depth = a[2], size = a[3], position = a[4];
    Py_ssize_t count = PyList_Size(args[5]);
    if (count < 0)
        return NULL;
    for (Py_ssize_t k = 0; k < count; k++) {
        PyObject *row_number = PyList_GetItem(args[5], k), *source_number = PyList_GetItem(args[6], k);
        if (!row_number || !source_number)
            return NULL;
        int64_t row = PyLong_AsLongLong(row_number), source = PyLong_AsLongLong(source_number);
        if (PyErr_Occurred())
            return NULL;
        if (source < 0 || 2 * source >= given || row < 0 || row >= rows || position < 0 || position > depth ||
            depth - position > sources[2 * source + 1])
            return PyErr_Format(PyExc_IndexError, "copy_steps: source %lld has not all of row %lld from step %lld on",
                                (long long)source, (long long)row, (long long)position);
        const char *from = (const char *)(intptr_t)sources[2 * source];
        memcpy(to + (row * depth + position) * size, from + row * sources[2 * source + 1] * size,
               (size_t)((depth - position) * size));
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"finish_rows", (PyCFunction)(void (*)(void))finish_rows, METH_FASTCALL, "See wm_kernels.native.finish_rows."},
    {"write_columns", (PyCFunction)(void (*)(void))write_columns, METH_FASTCALL, "See wm_kernels.native.write_columns."},
    {"copy_steps", (PyCFunction)(void (*)(void))copy_steps, METH_FASTCALL, "See wm_kernels.native.copy_steps."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "_native", NULL, 0, methods, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__native(void) { return PyModule_Create(&definition); }
