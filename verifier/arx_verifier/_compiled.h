// SPDX-License-Identifier: Apache-2.0
//
// What the files of the compiled twins share; see _compiled.c.

#ifndef ARX_COMPILED_H
#define ARX_COMPILED_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

enum {
    STATES_OF, ENDS_IN, EXTEND, FOLD, NEXT_LINK, BASE64_OF, BYTES_OF, WALK, SPLIT_CALL, TOOL_DIGEST, SALTED, IS_FLAT,
    PACK_FACTS, KEEP_AT_ONCE, COUNT
};

typedef PyObject *Twin(PyObject *self, PyObject *const *args, Py_ssize_t nargs);

// Call the Python function that a twin stands for.
PyObject *pure(int which, PyObject *const *args, Py_ssize_t nargs);

// Learn the class that a twin reads.  Return 0 with an exception where it is not as it should be.
int learn_facts(PyObject *type);
int learn_decision(PyObject *type);

Twin pack_facts, keep_at_once;

#endif
