/* Which line of the kernel is running: kept as code and offset, turned into text when needed. */
#include "nki/python/ext.h"

#include <stdlib.h>
#include <string.h>

static PyObject *own_folder; /* str */

/* File names are few and long-lived: whether each is ours is found once. */
enum { N_NAMES = 16 };
static struct {
    PyObject *name; /* strong */
    bool is_ours;
} names[N_NAMES];
static int n_names;

int ext_place_set_folder(PyObject *folder) {
    Py_INCREF(folder);
    Py_XSETREF(own_folder, folder);
    for (int i = 0; i < n_names; i++)
        Py_CLEAR(names[i].name);
    n_names = 0;
    return 0;
}

static bool is_ours(PyObject *name) {
    int n = n_names < N_NAMES ? n_names : N_NAMES;
    for (int i = 0; i < n; i++)
        if (names[i].name == name)
            return names[i].is_ours;
    bool ours = own_folder && PyUnicode_Tailmatch(name, own_folder, 0, PY_SSIZE_T_MAX, -1) == 1;
    int at = n_names++ % N_NAMES;
    Py_INCREF(name);
    Py_XSETREF(names[at].name, name);
    names[at].is_ours = ours;
    return ours;
}

/* The innermost frame that is not ours; new reference to its code, or NULL. */
static PyCodeObject *kernel_code(int *lasti) {
    PyFrameObject *frame = PyThreadState_GetFrame(PyThreadState_Get());
    while (frame) {
        PyCodeObject *code = PyFrame_GetCode(frame);
        PyFrameObject *back = NULL;
        if (is_ours(code->co_filename)) {
            back = PyFrame_GetBack(frame);
            Py_DECREF(code);
            Py_DECREF(frame);
            frame = back;
            continue;
        }
        *lasti = PyFrame_GetLasti(frame);
        Py_DECREF(frame);
        return code;
    }
    return NULL;
}

static uint32_t hash_of(const PyCodeObject *code, int lasti, const char *op) {
    uintptr_t h = (uintptr_t)code / 16 * 31 + (uintptr_t)lasti * 0x9e3779b1u + (uintptr_t)op;
    return (uint32_t)(h ^ h >> 17);
}

static bool grow_table(ext_places *p) {
    uint32_t n = p->n_table ? p->n_table * 2 : 256;
    uint32_t *table = calloc(n, sizeof *table);
    if (!table)
        return false;
    for (uint32_t i = 0; i < p->n; i++) {
        const ext_place *e = &p->list[i];
        uint32_t at = hash_of(e->code, e->lasti, e->op) & (n - 1);
        while (table[at])
            at = (at + 1) & (n - 1);
        table[at] = i + 1;
    }
    free(p->table);
    p->table = table;
    p->n_table = n;
    return true;
}

static bool grow_list(ext_places *p) {
    if (p->n < p->cap)
        return true;
    uint32_t cap = p->cap ? p->cap * 2 : 64;
    ext_place *list = realloc(p->list, cap * sizeof *list);
    if (!list)
        return false;
    p->list = list;
    p->cap = cap;
    return true;
}

int64_t ext_place_note(ext_places *p, const char *op) {
    int lasti = 0;
    PyCodeObject *code = kernel_code(&lasti);
    if ((p->n * 2 >= p->n_table && !grow_table(p)) || !grow_list(p)) {
        Py_XDECREF(code);
        PyErr_NoMemory();
        return -1;
    }
    uint32_t at = hash_of(code, lasti, op) & (p->n_table - 1);
    for (; p->table[at]; at = (at + 1) & (p->n_table - 1)) {
        const ext_place *e = &p->list[p->table[at] - 1];
        if (e->code == code && e->lasti == lasti && e->op == op) {
            Py_XDECREF(code);
            return p->table[at] - 1;
        }
    }
    p->list[p->n] = (ext_place){code, lasti, op};
    p->table[at] = ++p->n;
    return p->n - 1;
}

PyObject *ext_place_text(const ext_place *place) {
    if (!place->code)
        return PyUnicode_FromString("");
    return PyUnicode_FromFormat("%U:%d", place->code->co_filename,
                                PyCode_Addr2Line(place->code, place->lasti));
}

PyObject *ext_place_now(void) {
    ext_place place = {0};
    place.code = kernel_code(&place.lasti);
    PyObject *text = ext_place_text(&place);
    Py_XDECREF(place.code);
    return text;
}

void ext_places_free(ext_places *p) {
    for (uint32_t i = 0; i < p->n; i++)
        Py_XDECREF(p->list[i].code);
    free(p->list);
    free(p->table);
    *p = (ext_places){0};
}
