// SPDX-License-Identifier: Apache-2.0
//
// What the files of the compiled twins share; see _compiled.c.

#ifndef ARX_COMPILED_H
#define ARX_COMPILED_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

enum {
    STATES_OF, ENDS_IN, EXTEND, FOLD, NEXT_LINK, BASE64_OF, BYTES_OF, READ_TEXT, APPENDED, WALK, SPLIT_CALL, TOOL_DIGEST,
    SALTED, IS_FLAT, SAME_TEXT, WITHIN_INTEGERS, WITHIN_LENGTHS, AMONG, ONE_STAR, WRONG_IN, COUNT
};

typedef PyObject *Twin(PyObject *self, PyObject *const *args, Py_ssize_t nargs);

// Call the Python function that a twin stands for.
PyObject *pure(int which, PyObject *const *args, Py_ssize_t nargs);

// Find where a class keeps its fields.  Return 0 with an exception where one is no plain field.
int find_fields(PyObject *type, const char *const *texts, int count, Py_ssize_t *found);

// Read canonical base64url: the number of bytes, or -1.  Write it.  Name the link behind a hop; 0 with an exception.
Py_ssize_t decode_into(unsigned char *out, const unsigned char *text, Py_ssize_t size);
void encode_into(unsigned char *out, const unsigned char *raw, Py_ssize_t size);
int link_into(unsigned char *out, const void *link, size_t link_size, const void *hop, size_t hop_size);

// Make the type of tests ready.  Return 0 with an exception.
int ready_rules(void);

// Learn what a twin reads or uses.  Return 0 with an exception where it is not as it should be.
int learn_rule(PyObject *type);

Twin same_text, within_integers, within_lengths, among, one_star, wrong_in;

#endif
