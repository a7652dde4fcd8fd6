// SPDX-License-Identifier: Apache-2.0
//
// The compiled twins of what a rule asks of an argument, and of asking it; see _compiled.c.
//
// A ``Predicate`` stands for one of the callables that Python makes of a constraint.  It answers as they do: exact types
// only, so that ``true`` is no number and a subclass is nothing at all.

#include "_compiled.h"

#include <structmember.h>

#define MAX_INTEGER ((1LL << 53) - 1)  // comparing.MAX_INTEGER

// ------------------------------------------------------------------------------------------------- predicates, SPEC 7.2

enum { TEXT, INTEGERS, LENGTHS, MEMBER, STAR };

typedef struct {
    PyObject_HEAD
    vectorcallfunc call;
    int kind;
    long long least, most;   // INTEGERS, LENGTHS
    PyObject *first, *last;  // TEXT: the text; MEMBER: the set and the type of its members; STAR: both ends
    PyObject *bounds;        // INTEGERS: as Python says them
} Predicate;

static PyTypeObject predicate_type;

static int is_between_ends(const Predicate *test, PyObject *value)
{
    Py_ssize_t size = PyUnicode_GET_LENGTH(value);
    Py_ssize_t start = PyUnicode_GET_LENGTH(test->first), rest = PyUnicode_GET_LENGTH(test->last);
    if (size < start + rest) return 0;
    Py_ssize_t begins = PyUnicode_Tailmatch(value, test->first, 0, size, -1);
    if (begins <= 0) return (int)begins;
    Py_ssize_t ends = PyUnicode_Tailmatch(value, test->last, 0, size, 1);
    if (ends <= 0) return (int)ends;
    Py_ssize_t slash = PyUnicode_FindChar(value, '/', start, size - rest, 1);
    return slash == -2 ? -1 : slash == -1;
}

// Whether a test holds for a value; -1 with an exception.
static int holds(const Predicate *test, PyObject *value)
{
    int beyond = 0;
    long long number;
    switch (test->kind) {
    case TEXT:
        if (!PyUnicode_CheckExact(value)) return 0;
        return PyUnicode_Compare(value, test->first) == 0;
    case INTEGERS:
        if (!PyLong_CheckExact(value)) return 0;
        number = PyLong_AsLongLongAndOverflow(value, &beyond);
        return !beyond && test->least <= number && number <= test->most;
    case LENGTHS:
        if (PyUnicode_CheckExact(value)) number = PyUnicode_GET_LENGTH(value);
        else if (PyList_CheckExact(value)) number = PyList_GET_SIZE(value);
        else return 0;
        return test->least <= number && number <= test->most;
    case MEMBER:
        return Py_IS_TYPE(value, (PyTypeObject *)test->last) ? PySet_Contains(test->first, value) : 0;
    default:
        return PyUnicode_CheckExact(value) ? is_between_ends(test, value) : 0;
    }
}

static PyObject *call_predicate(PyObject *self, PyObject *const *args, size_t nargsf, PyObject *names)
{
    if (PyVectorcall_NARGS(nargsf) != 1 || (names != NULL && PyTuple_GET_SIZE(names)))
        return PyErr_Format(PyExc_TypeError, "a test takes one value");
    int found = holds((Predicate *)self, args[0]);
    return found < 0 ? NULL : PyBool_FromLong(found);
}

static void drop_predicate(PyObject *self)
{
    Predicate *test = (Predicate *)self;
    Py_XDECREF(test->first);
    Py_XDECREF(test->last);
    Py_XDECREF(test->bounds);
    Py_TYPE(self)->tp_free(self);
}

static PyMemberDef predicate_members[] = {
    {"bounds", T_OBJECT_EX, offsetof(Predicate, bounds), READONLY, "Least and most, of a range of integers."},
    {NULL, 0, 0, 0, NULL},
};

static PyTypeObject predicate_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "arx_verifier._compiled.Predicate",
    .tp_basicsize = sizeof(Predicate),
    .tp_dealloc = drop_predicate,
    .tp_vectorcall_offset = offsetof(Predicate, call),
    .tp_call = PyVectorcall_Call,
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL,
    .tp_members = predicate_members,
};

static PyObject *new_predicate(int kind, PyObject *first, PyObject *last, long long least, long long most)
{
    Predicate *test = PyObject_New(Predicate, &predicate_type);
    if (test == NULL) return NULL;
    test->call = call_predicate;
    test->kind = kind, test->least = least, test->most = most;
    test->first = Py_XNewRef(first), test->last = Py_XNewRef(last);
    test->bounds = NULL;
    return (PyObject *)test;
}

// Read two bounds that every integer of JSON lies between, or say 0.
static int read_bounds(PyObject *const *args, Py_ssize_t nargs, long long *least, long long *most)
{
    int beyond[2];
    if (nargs != 2 || !PyLong_CheckExact(args[0]) || !PyLong_CheckExact(args[1])) return 0;
    *least = PyLong_AsLongLongAndOverflow(args[0], &beyond[0]);
    *most = PyLong_AsLongLongAndOverflow(args[1], &beyond[1]);
    return !beyond[0] && !beyond[1] && *least >= -MAX_INTEGER && *most <= MAX_INTEGER;
}

PyObject *same_text(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 1 || !PyUnicode_CheckExact(args[0])) return pure(SAME_TEXT, args, nargs);
    return new_predicate(TEXT, args[0], NULL, 0, 0);
}

PyObject *within_integers(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    long long least, most;
    if (!read_bounds(args, nargs, &least, &most)) return pure(WITHIN_INTEGERS, args, nargs);
    PyObject *test = new_predicate(INTEGERS, NULL, NULL, least, most);
    if (test != NULL && (((Predicate *)test)->bounds = PyTuple_Pack(2, args[0], args[1])) == NULL) Py_CLEAR(test);
    return test;
}

PyObject *within_lengths(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    long long least, most;
    if (!read_bounds(args, nargs, &least, &most)) return pure(WITHIN_LENGTHS, args, nargs);
    return new_predicate(LENGTHS, NULL, NULL, least, most);
}

PyObject *among(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    int known = nargs == 2 && (args[0] == (PyObject *)&PyUnicode_Type || args[0] == (PyObject *)&PyLong_Type);
    if (!known || !PyFrozenSet_CheckExact(args[1])) return pure(AMONG, args, nargs);
    return new_predicate(MEMBER, args[1], args[0], 0, 0);
}

PyObject *one_star(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2 || !PyUnicode_CheckExact(args[0]) || !PyUnicode_CheckExact(args[1]))
        return pure(ONE_STAR, args, nargs);
    return new_predicate(STAR, args[0], args[1], 0, 0);
}

// ------------------------------------------------------------------------------------------------------- rules, SPEC 7

static PyObject *rule_type;  // permitting.CompiledRule
enum { EXACT, CLOSED, TESTS, RULE_FIELDS };
static const char *const rule_names[RULE_FIELDS] = {"exact", "closed", "tests"};
static Py_ssize_t rule_offsets[RULE_FIELDS];

// Once, before a test is made: whoever imports what makes them need not import what asks rules.
int ready_rules(void) { return PyType_Ready(&predicate_type) == 0; }

int learn_rule(PyObject *type)
{
    if (!find_fields(type, rule_names, RULE_FIELDS, rule_offsets)) return 0;
    Py_XSETREF(rule_type, Py_NewRef(type));
    return 1;
}

static int ask(PyObject *test, PyObject *value)
{
    if (Py_IS_TYPE(test, &predicate_type)) return holds((Predicate *)test, value);
    PyObject *said = PyObject_CallOneArg(test, value);
    int found = said != NULL ? PyObject_IsTrue(said) : -1;
    Py_XDECREF(said);
    return found;
}

// The first argument that is not there or does not keep its test, or None.
static PyObject *first_wrong(PyObject *tests, PyObject *args)
{
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tests); i++) {
        PyObject *pair = PyTuple_GET_ITEM(tests, i), *name = PyTuple_GET_ITEM(pair, 0);
        PyObject *value = PyDict_GetItemWithError(args, name);
        int found = value != NULL ? 1 : PyErr_Occurred() ? -1 : 0;
        if (found > 0) {
            Py_INCREF(value);  // a test in Python lets other threads run
            found = ask(PyTuple_GET_ITEM(pair, 1), value);
            Py_DECREF(value);
        }
        if (found < 0 && PyErr_ExceptionMatches(PyExc_KeyError)) {
            PyErr_Clear();
            found = 0;
        }
        if (found <= 0) return found < 0 ? NULL : Py_NewRef(name);
    }
    Py_RETURN_NONE;
}

static int are_pairs(PyObject *tests)
{
    if (tests == NULL || !PyTuple_CheckExact(tests)) return 0;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(tests); i++) {
        PyObject *pair = PyTuple_GET_ITEM(tests, i);
        if (!PyTuple_CheckExact(pair) || PyTuple_GET_SIZE(pair) != 2 || !PyUnicode_CheckExact(PyTuple_GET_ITEM(pair, 0)))
            return 0;
    }
    return 1;
}

// Rules whose arguments are just those that they name, and rules that say nothing of arguments.
PyObject *wrong_in(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    int known = nargs == 2 && rule_type != NULL && Py_IS_TYPE(args[0], (PyTypeObject *)rule_type);
    if (!known || !PyDict_CheckExact(args[1])) return pure(WRONG_IN, args, nargs);
    PyObject *of[RULE_FIELDS];
    for (int i = 0; i < RULE_FIELDS; i++) of[i] = *(PyObject **)((char *)args[0] + rule_offsets[i]);
    if (!are_pairs(of[TESTS])) return pure(WRONG_IN, args, nargs);
    Py_ssize_t count = PyTuple_GET_SIZE(of[TESTS]);
    if (of[EXACT] != Py_True && (of[CLOSED] != Py_False || count)) return pure(WRONG_IN, args, nargs);
    if (of[EXACT] == Py_True && PyDict_GET_SIZE(args[1]) != count) return pure(WRONG_IN, args, nargs);
    if (count == 0) Py_RETURN_NONE;
    PyObject *tests = Py_NewRef(of[TESTS]);
    PyObject *wrong = first_wrong(tests, args[1]);
    Py_DECREF(tests);
    return wrong;
}
