// SPDX-License-Identifier: Apache-2.0
//
// Primitives on the way of each call: HMACs of the chain, base64url, packets, the split of a call's text, digests.
//
// These functions read bytes and know no member of a caveat: Python alone interprets a token.  A test checks that.
//
// Each function does the ordinary case of the Python function of its name, which is the reference.  It calls that
// function for all else (another type, a text that is not canonical, a length that is not minimal), so that only one
// implementation decides what is malformed, with one error text.  SHA-256 is libcrypto's, which Python's hashlib uses
// too, and on macOS CommonCrypto's; this file implements no cryptography itself.  Everything runs under the GIL, so the
// one digest context is never used twice at once.
//
// It keeps to the limited API, so that one file runs on each Python from 3.11.

#define Py_LIMITED_API 0x030b0000
#define PY_SSIZE_T_CLEAN
#ifdef __APPLE__
#define __STDC_WANT_LIB_EXT1__ 1  // memset_s
#endif
#include <Python.h>
#include <stdint.h>
#include <string.h>

#define DIGEST 32
#define BLOCK 64
#define LINK 16            // chain.LINK_BYTES
#define LINK_CHARS 22
#define HOP 9
#define HOP_CHARS 12       // of its text
#define MAX_CAVEATS 64     // wire.MAX_CAVEATS
#define MAX_CHARS 7168     // wire.MAX_CREDENTIAL_CHARS
#define CAVEAT 95          // call_proof._CAVEAT_BYTES
#define LONGEST 184        // of a call with its holder's signature
#define TAIL (3 + LONGEST + 4 + DIGEST)
#define INVALID 0xff000000u
#define STATES "arx_verifier.token.chain.States"

// ---------------------------------------------------------------------------------------------------- what is shared

enum {
    STATES_OF, ENDS_IN, EXTEND, FOLD, LINKS_OF, BASE64_OF, BYTES_OF, READ_TEXT, APPENDED, CUT_OUT, WALK, SPLIT_CALL,
    TOOL_DIGEST, HTTP_DIGEST, SHA256_OF, IS_FLAT, COUNT
};

static PyObject *reference[COUNT];  // the Python functions
static PyObject *call_type;         // call_proof.PresentedCall
static PyObject *third_type;        // wire.ThirdParty

static PyObject *call(PyObject *function, PyObject *const *args, Py_ssize_t nargs)
{
    PyObject *all = PyTuple_New(nargs);
    for (Py_ssize_t i = 0; all != NULL && i < nargs; i++) PyTuple_SetItem(all, i, Py_NewRef(args[i]));
    PyObject *result = all != NULL ? PyObject_CallObject(function, all) : NULL;
    Py_XDECREF(all);
    return result;
}

static PyObject *pure(int which, PyObject *const *args, Py_ssize_t nargs)
{
    if (reference[which] == NULL) return PyErr_Format(PyExc_TypeError, "this function is used through its Python module");
    return call(reference[which], args, nargs);
}

static int is_key(PyObject *value) { return PyBytes_CheckExact(value) && PyBytes_Size(value) == DIGEST; }

// The characters of an ASCII text, and their number; NULL of any other value.
static const unsigned char *ascii(PyObject *value, Py_ssize_t *size)
{
    if (!PyUnicode_CheckExact(value)) return NULL;
    const char *text = PyUnicode_AsUTF8AndSize(value, size);
    if (text == NULL) PyErr_Clear();  // a lone surrogate, or no memory: the reference raises what it must
    return text != NULL && *size == PyUnicode_GetLength(value) ? (const unsigned char *)text : NULL;
}

static int failed(void)
{
    if (!PyErr_Occurred()) PyErr_SetString(PyExc_RuntimeError, "libcrypto could not hash");
    return 0;
}

// ------------------------------------------------------------------------------------------------- hashing, SPEC 5, 8

#ifdef __APPLE__  // forbids programs to link its libcrypto

#include <CommonCrypto/CommonDigest.h>

typedef const char EVP_MD;
typedef CC_SHA256_CTX EVP_MD_CTX;

#define EVP_MD_fetch(library, name, properties) (name)
#define EVP_MD_CTX_new() ((EVP_MD_CTX *)PyMem_Calloc(1, sizeof(EVP_MD_CTX)))
#define EVP_MD_CTX_copy_ex(to, from) (*(to) = *(from), 1)
#define EVP_DigestInit_ex2(hash, kind, parameters) CC_SHA256_Init(hash)
#define EVP_DigestUpdate(hash, data, size) ((size) <= UINT32_MAX && CC_SHA256_Update(hash, data, (CC_LONG)(size)))
#define EVP_DigestFinal_ex(hash, out, size) CC_SHA256_Final(out, hash)
#define OPENSSL_cleanse(data, size) memset_s(data, size, 0, size)
#define CRYPTO_memcmp timingsafe_bcmp

static void EVP_MD_CTX_free(EVP_MD_CTX *hash)
{
    if (hash != NULL) OPENSSL_cleanse(hash, sizeof *hash);
    PyMem_Free(hash);
}

#else  // OpenSSL 3 keeps these nine as they are in each 3.x, so its headers are not needed; a test compares them

typedef struct evp_md_st EVP_MD;
typedef struct evp_md_ctx_st EVP_MD_CTX;
typedef struct ossl_lib_ctx_st OSSL_LIB_CTX;
typedef struct ossl_param_st OSSL_PARAM;
EVP_MD *EVP_MD_fetch(OSSL_LIB_CTX *library, const char *name, const char *properties);
EVP_MD_CTX *EVP_MD_CTX_new(void);
void EVP_MD_CTX_free(EVP_MD_CTX *hash);
int EVP_MD_CTX_copy_ex(EVP_MD_CTX *to, const EVP_MD_CTX *from);
int EVP_DigestInit_ex2(EVP_MD_CTX *hash, const EVP_MD *kind, const OSSL_PARAM *parameters);
int EVP_DigestUpdate(EVP_MD_CTX *hash, const void *data, size_t size);
int EVP_DigestFinal_ex(EVP_MD_CTX *hash, unsigned char *out, unsigned int *size);
void OPENSSL_cleanse(void *data, size_t size);
int CRYPTO_memcmp(const void *left, const void *right, size_t size);

#endif

static EVP_MD *sha256;
static EVP_MD_CTX *context;

static int begin(void) { return EVP_DigestInit_ex2(context, NULL, NULL); }

static int add(const void *data, size_t size) { return EVP_DigestUpdate(context, data, size); }

static int end(unsigned char *out) { return EVP_DigestFinal_ex(context, out, NULL); }

static void make_pads(unsigned char pads[2][BLOCK], const unsigned char *key)
{
    memset(pads[0], 0x36, BLOCK);
    memset(pads[1], 0x5c, BLOCK);
    for (int i = 0; i < DIGEST; i++) {
        pads[0][i] ^= key[i];
        pads[1][i] ^= key[i];
    }
}

// HMAC-SHA256 (RFC 2104) for the 32-byte keys of the chain.  `out` may be `key`.
static int extend_into(unsigned char *out, const unsigned char *key, const void *data, size_t size)
{
    unsigned char pads[2][BLOCK], inner[DIGEST];
    make_pads(pads, key);
    int good = begin() && add(pads[0], BLOCK) && add(data, size) && end(inner) && begin() && add(pads[1], BLOCK) &&
               add(inner, DIGEST) && end(out);
    OPENSSL_cleanse(pads, sizeof pads);
    return good || failed();
}

static PyObject *extend(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2 || !is_key(args[0]) || !PyBytes_CheckExact(args[1])) return pure(EXTEND, args, nargs);
    unsigned char out[DIGEST];
    const unsigned char *key = (const unsigned char *)PyBytes_AsString(args[0]);
    if (!extend_into(out, key, PyBytes_AsString(args[1]), PyBytes_Size(args[1]))) return NULL;
    return PyBytes_FromStringAndSize((char *)out, DIGEST);
}

// Both hashes begun, for a signature that is extended many times.
typedef struct {
    EVP_MD_CTX *begun[2];
} States;

static void drop_states(PyObject *capsule)
{
    States *states = PyCapsule_GetPointer(capsule, STATES);
    if (states == NULL) return;
    for (int i = 0; i < 2; i++) EVP_MD_CTX_free(states->begun[i]);  // which cleans them
    PyMem_Free(states);
}

static PyObject *states_of(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 1 || !is_key(args[0])) return pure(STATES_OF, args, nargs);
    States *states = PyMem_Calloc(1, sizeof *states);
    PyObject *capsule = states != NULL ? PyCapsule_New(states, STATES, drop_states) : PyErr_NoMemory();
    if (capsule == NULL) {
        PyMem_Free(states);
        return NULL;
    }
    unsigned char pads[2][BLOCK];
    make_pads(pads, (const unsigned char *)PyBytes_AsString(args[0]));
    for (int i = 0, good = 1; i < 2 && good; i++) {
        EVP_MD_CTX *begun = states->begun[i] = EVP_MD_CTX_new();
        good = begun != NULL && EVP_DigestInit_ex2(begun, sha256, NULL) && EVP_DigestUpdate(begun, pads[i], BLOCK);
        if (!good) Py_CLEAR(capsule);
    }
    OPENSSL_cleanse(pads, sizeof pads);
    if (capsule == NULL) failed();
    return capsule;
}

static PyObject *ends_in(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 3 || !PyCapsule_IsValid(args[0], STATES) || !PyBytes_CheckExact(args[1]))
        return pure(ENDS_IN, args, nargs);
    if (!is_key(args[2])) Py_RETURN_FALSE;
    const States *states = PyCapsule_GetPointer(args[0], STATES);
    unsigned char out[DIGEST];
    if (!(EVP_MD_CTX_copy_ex(context, states->begun[0]) &&
          add(PyBytes_AsString(args[1]), PyBytes_Size(args[1])) && end(out) &&
          EVP_MD_CTX_copy_ex(context, states->begun[1]) && add(out, DIGEST) && end(out)) && !failed())
        return NULL;
    return PyBool_FromLong(CRYPTO_memcmp(out, PyBytes_AsString(args[2]), DIGEST) == 0);
}

enum { T_LOCATION, T_IDENTIFIER, T_VERIFICATION, T_FIELDS };

static int is_third(PyObject *caveat)
{
    int known = third_type != NULL && Py_IS_TYPE(caveat, (PyTypeObject *)third_type);
    return known && PyTuple_Size(caveat) == T_FIELDS && PyBytes_CheckExact(PyTuple_GetItem(caveat, T_IDENTIFIER)) &&
           PyBytes_CheckExact(PyTuple_GetItem(caveat, T_VERIFICATION));
}

static int extend_by(unsigned char *signature, PyObject *data)
{
    return extend_into(signature, signature, PyBytes_AsString(data), (size_t)PyBytes_Size(data));
}

// As chain.extend_third_party.
static int extend_by_third(unsigned char *signature, PyObject *caveat)
{
    unsigned char both[2 * DIGEST];
    memcpy(both, signature, DIGEST);
    memcpy(both + DIGEST, signature, DIGEST);
    return extend_by(both, PyTuple_GetItem(caveat, T_VERIFICATION)) &&
           extend_by(both + DIGEST, PyTuple_GetItem(caveat, T_IDENTIFIER)) &&
           extend_into(signature, signature, both, sizeof both);
}

static PyObject *fold(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 3 || !is_key(args[0]) || !PyBytes_CheckExact(args[1]) || !PyTuple_CheckExact(args[2]))
        return pure(FOLD, args, nargs);
    Py_ssize_t count = PyTuple_Size(args[2]);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *caveat = PyTuple_GetItem(args[2], i);
        if (!PyBytes_CheckExact(caveat) && !is_third(caveat)) return pure(FOLD, args, nargs);
    }
    unsigned char out[DIGEST];
    memcpy(out, PyBytes_AsString(args[0]), DIGEST);
    int good = extend_by(out, args[1]);
    for (Py_ssize_t i = 0; i < count && good; i++) {
        PyObject *caveat = PyTuple_GetItem(args[2], i);
        good = PyBytes_CheckExact(caveat) ? extend_by(out, caveat) : extend_by_third(out, caveat);
    }
    return good ? PyBytes_FromStringAndSize((char *)out, DIGEST) : NULL;
}

static PyObject *sha256_of(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2 || !PyBytes_CheckExact(args[0]) || !PyBytes_CheckExact(args[1])) return pure(SHA256_OF, args, nargs);
    unsigned char out[DIGEST];
    if (!(begin() && add(PyBytes_AsString(args[0]), PyBytes_Size(args[0])) &&
          add(PyBytes_AsString(args[1]), PyBytes_Size(args[1])) && end(out)) && !failed())
        return NULL;
    return PyBytes_FromStringAndSize((char *)out, DIGEST);
}

// ------------------------------------------------------------------------------------------------- base64url, SPEC 2.2

static const char ALPHABET[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
static uint32_t place[4][256];  // what a character is worth at each of the four places of a group, or INVALID

static void make_tables(void)
{
    for (int at = 0; at < 4; at++) {
        for (int c = 0; c < 256; c++) place[at][c] = INVALID;
        for (uint32_t i = 0; i < 64; i++) place[at][(unsigned char)ALPHABET[i]] = i << (18 - 6 * at);
    }
}

// Return the number of bytes, or -1 where the text is not canonical: another alphabet, or bits after the last byte.
static Py_ssize_t decode_into(unsigned char *out, const unsigned char *text, Py_ssize_t size)
{
    Py_ssize_t whole = size / 4, over = size % 4;
    unsigned char *start = out;
    uint32_t seen = 0, group;
    for (Py_ssize_t i = 0; i < whole; i++, text += 4, out += 3) {
        group = place[0][text[0]] | place[1][text[1]] | place[2][text[2]] | place[3][text[3]];
        seen |= group;
        out[0] = (unsigned char)(group >> 16);
        out[1] = (unsigned char)(group >> 8);
        out[2] = (unsigned char)group;
    }
    if (over == 1) return -1;
    if (over) {
        group = place[0][text[0]] | place[1][text[1]] | (over == 3 ? place[2][text[2]] : 0);
        seen |= group;
        if (group & (over == 3 ? 0xffu : 0xffffu)) return -1;
        *out++ = (unsigned char)(group >> 16);
        if (over == 3) *out++ = (unsigned char)(group >> 8);
    }
    return seen & INVALID ? -1 : out - start;
}

static Py_ssize_t encoded_size(Py_ssize_t size) { return size / 3 * 4 + (size % 3 ? size % 3 + 1 : 0); }

static void encode_into(unsigned char *out, const unsigned char *raw, Py_ssize_t size)
{
    for (; size >= 3; size -= 3, raw += 3, out += 4) {
        uint32_t group = (uint32_t)raw[0] << 16 | (uint32_t)raw[1] << 8 | raw[2];
        out[0] = (unsigned char)ALPHABET[group >> 18];
        out[1] = (unsigned char)ALPHABET[group >> 12 & 63];
        out[2] = (unsigned char)ALPHABET[group >> 6 & 63];
        out[3] = (unsigned char)ALPHABET[group & 63];
    }
    if (size) {
        uint32_t group = (uint32_t)raw[0] << 16 | (size == 2 ? (uint32_t)raw[1] << 8 : 0);
        out[0] = (unsigned char)ALPHABET[group >> 18];
        out[1] = (unsigned char)ALPHABET[group >> 12 & 63];
        if (size == 2) out[2] = (unsigned char)ALPHABET[group >> 6 & 63];
    }
}

static PyObject *base64_of(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 1 || !PyBytes_CheckExact(args[0])) return pure(BASE64_OF, args, nargs);
    Py_ssize_t size = PyBytes_Size(args[0]);
    PyObject *text = PyBytes_FromStringAndSize(NULL, encoded_size(size));
    if (text == NULL) return NULL;
    encode_into((unsigned char *)PyBytes_AsString(text), (const unsigned char *)PyBytes_AsString(args[0]), size);
    return text;
}

// Takes the text as `str` or as `bytes`, as its two references do.
static PyObject *bytes_of(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    const unsigned char *text;
    Py_ssize_t size;
    if (nargs == 1 && PyBytes_CheckExact(args[0])) {
        text = (const unsigned char *)PyBytes_AsString(args[0]);
        size = PyBytes_Size(args[0]);
    } else if (nargs != 1 || (text = ascii(args[0], &size)) == NULL) {
        return pure(BYTES_OF, args, nargs);
    }
    PyObject *raw = PyBytes_FromStringAndSize(NULL, size / 4 * 3 + (size % 4 ? size % 4 - 1 : 0));
    if (raw == NULL) return NULL;
    if (decode_into((unsigned char *)PyBytes_AsString(raw), text, size) >= 0) return raw;
    Py_DECREF(raw);
    return pure(BYTES_OF, args, nargs);
}

static PyObject *links_of(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    unsigned char link[DIGEST], hop[HOP], text[LINK_CHARS];
    const unsigned char *first;
    Py_ssize_t size;
    if (nargs != 2 || (first = ascii(args[0], &size)) == NULL || size != LINK_CHARS || !PyTuple_CheckExact(args[1]) ||
        decode_into(link, first, LINK_CHARS) != LINK)
        return pure(LINKS_OF, args, nargs);
    Py_ssize_t count = PyTuple_Size(args[1]);
    PyObject *found = PyList_New(count);
    for (Py_ssize_t i = 0; found != NULL && i < count; i++) {
        PyObject *name = NULL, *given = PyTuple_GetItem(args[1], i);
        if (!PyBytes_CheckExact(given) || PyBytes_Size(given) != HOP_CHARS ||
            decode_into(hop, (const unsigned char *)PyBytes_AsString(given), HOP_CHARS) != HOP) {
            Py_DECREF(found);
            return pure(LINKS_OF, args, nargs);
        }
        if ((begin() && add("arx/1/link", 10) && add(link, LINK) && add(hop, HOP) && end(link)) || failed()) {
            encode_into(text, link, LINK);
            name = PyUnicode_FromStringAndSize((char *)text, LINK_CHARS);
        }
        if (name == NULL)
            Py_CLEAR(found);
        else
            PyList_SetItem(found, i, name);
    }
    return found;
}

// ---------------------------------------------------------------------------------------------------- packets, SPEC 2.1

// Read the field at *at; return its data and move *at to the next one, or return NULL if the field is incomplete.
static PyObject *field(const unsigned char *body, Py_ssize_t end_, Py_ssize_t *at, unsigned char kind)
{
    Py_ssize_t start = *at + 2, size;
    if (start > end_ || body[*at] != kind) return NULL;
    size = body[*at + 1];
    if (size >= 0x80) {
        if (start >= end_ || body[start] == 0 || body[start] >= 0x80) return NULL;
        size = (size & 0x7f) | (Py_ssize_t)body[start] << 7;
        start++;
    }
    if (size > end_ - start) return NULL;
    PyObject *data = PyBytes_FromStringAndSize((const char *)body + start, size);
    if (data != NULL) *at = start + size;  // without memory *at stays: or a last field would pass for one that is there
    return data;
}

static const unsigned char ENDING[3] = {0, 6, DIGEST};  // wire.TAIL

static PyObject *read_text(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    const unsigned char *text;
    unsigned char raw[MAX_CHARS];
    Py_ssize_t size;
    if (nargs != 1 || (text = ascii(args[0], &size)) == NULL || size > MAX_CHARS || size < 5 || memcmp(text, "arx1_", 5))
        return pure(READ_TEXT, args, nargs);
    Py_ssize_t body = decode_into(raw, text + 5, size - 5) - (Py_ssize_t)sizeof ENDING - DIGEST;
    if (body < 0 || memcmp(raw + body, ENDING, sizeof ENDING)) return pure(READ_TEXT, args, nargs);
    return Py_BuildValue("y#y#", raw, body, raw + body + sizeof ENDING, (Py_ssize_t)DIGEST);
}

// One caveat more: the body and its signature after it.
static PyObject *appended(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 3 || !PyBytes_CheckExact(args[0]) || !is_key(args[1]) || !PyBytes_CheckExact(args[2]) ||
        PyBytes_Size(args[2]) >= 0x4000)
        return pure(APPENDED, args, nargs);
    Py_ssize_t before = PyBytes_Size(args[0]), size = PyBytes_Size(args[2]), head = size < 0x80 ? 2 : 3;
    PyObject *body = PyBytes_FromStringAndSize(NULL, before + head + size + 1);
    PyObject *signature = PyBytes_FromStringAndSize(NULL, DIGEST), *both = NULL;
    if (body != NULL && signature != NULL &&
        extend_into((unsigned char *)PyBytes_AsString(signature), (unsigned char *)PyBytes_AsString(args[1]),
                    PyBytes_AsString(args[2]), (size_t)size)) {
        unsigned char *at = (unsigned char *)PyBytes_AsString(body);
        memcpy(at, PyBytes_AsString(args[0]), (size_t)before);
        at += before;
        at[0] = 2;
        at[1] = (unsigned char)(size < 0x80 ? size : (size & 0x7f) | 0x80);
        if (head == 3) at[2] = (unsigned char)(size >> 7);
        memcpy(at + head, PyBytes_AsString(args[2]), (size_t)size);
        at[head + size] = 0;
        both = PyTuple_Pack(2, body, signature);
    }
    Py_XDECREF(body);
    Py_XDECREF(signature);
    return both;
}

static int closed(const unsigned char *body, Py_ssize_t end_, Py_ssize_t *at)
{
    if (*at >= end_ || body[*at] != 0) return 0;
    ++*at;
    return 1;
}

// Read one caveat; NULL where it is none.
static PyObject *caveat_at(const unsigned char *body, Py_ssize_t end_, Py_ssize_t *at)
{
    int third = body[*at] == 1;
    PyObject *parts[T_FIELDS] = {third ? field(body, end_, at, 1) : Py_NewRef(Py_None), NULL, NULL}, *caveat = NULL;
    if (parts[T_LOCATION] != NULL && *at < end_) parts[T_IDENTIFIER] = field(body, end_, at, 2);
    if (parts[T_IDENTIFIER] != NULL && *at < end_ && body[*at] == 4 && third_type != NULL) {
        parts[T_VERIFICATION] = field(body, end_, at, 4);
        if (parts[T_VERIFICATION] != NULL) caveat = call(third_type, parts, T_FIELDS);
    } else if (!third) {
        caveat = Py_XNewRef(parts[T_IDENTIFIER]);
    }
    for (int i = 0; i < T_FIELDS; i++) Py_XDECREF(parts[i]);
    return caveat;
}

static PyObject *walk(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 1 || !PyBytes_CheckExact(args[0])) return pure(WALK, args, nargs);
    const unsigned char *body = (const unsigned char *)PyBytes_AsString(args[0]);
    Py_ssize_t size = PyBytes_Size(args[0]), at = 1, count = 0;
    PyObject *found[MAX_CAVEATS], *location = NULL, *identifier = NULL, *caveats = NULL, *all = NULL;
    if (size == 0 || body[0] != 2 || (location = field(body, size, &at, 1)) == NULL ||
        (identifier = field(body, size, &at, 2)) == NULL || !closed(body, size, &at))
        goto done;
    while (at < size && count < MAX_CAVEATS) {
        if ((found[count] = caveat_at(body, size, &at)) == NULL) goto done;
        count++;
        if (!closed(body, size, &at)) goto done;  // no caveat at all
    }
    if (at != size || (caveats = PyTuple_New(count)) == NULL) goto done;
    for (Py_ssize_t i = 0; i < count; i++) PyTuple_SetItem(caveats, i, found[i]);
    count = 0;
    all = PyTuple_Pack(3, location, identifier, caveats);
done:
    while (count > 0) Py_DECREF(found[--count]);
    Py_XDECREF(location);
    Py_XDECREF(identifier);
    Py_XDECREF(caveats);
    if (all != NULL || PyErr_Occurred()) return all;
    return pure(WALK, args, nargs);
}

// Where the last mark in a text begins, or -1.
static Py_ssize_t last(PyObject *text, PyObject *mark)
{
    const char *start = PyBytes_AsString(text), *wanted = PyBytes_AsString(mark);
    Py_ssize_t size = PyBytes_Size(mark);
    for (Py_ssize_t at = PyBytes_Size(text) - size; at >= 0; at--)
        if (start[at] == wanted[0] && !memcmp(start + at, wanted, (size_t)size)) return at;
    return -1;
}

static PyObject *cut_out(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 3 || !PyTuple_CheckExact(args[0]) || !PyBytes_CheckExact(args[1]) || PyBytes_Size(args[1]) == 0 ||
        !PyLong_CheckExact(args[2]))
        return pure(CUT_OUT, args, nargs);
    Py_ssize_t count = PyTuple_Size(args[0]), mark = PyBytes_Size(args[1]), size = PyLong_AsSsize_t(args[2]);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *packet = PyTuple_GetItem(args[0], i);
        if (!PyBytes_CheckExact(packet) && !is_third(packet)) return pure(CUT_OUT, args, nargs);
    }
    if (size < 0 || size > MAX_CHARS) return PyErr_Clear(), pure(CUT_OUT, args, nargs);
    PyObject *rest = PyTuple_New(count), *texts = PyList_New(0), *both = NULL;
    for (Py_ssize_t i = 0; rest != NULL && texts != NULL && i < count; i++) {
        PyObject *packet = PyTuple_GetItem(args[0], i), *made = packet, *text = NULL;
        Py_ssize_t at = PyBytes_CheckExact(packet) ? last(packet, args[1]) : -1;
        if (at < 0) {
            Py_INCREF(packet);
        } else {
            const char *from = PyBytes_AsString(packet);
            Py_ssize_t start = at + mark, left = PyBytes_Size(packet) - start, taken = size < left ? size : left;
            text = PyBytes_FromStringAndSize(from + start, taken);
            made = PyBytes_FromStringAndSize(NULL, start + 1 + left - taken);
            if (made != NULL) {
                memcpy(PyBytes_AsString(made), from, (size_t)start);
                PyBytes_AsString(made)[start] = 0;
                memcpy(PyBytes_AsString(made) + start + 1, from + start + taken, (size_t)(left - taken));
            }
            if (made == NULL || text == NULL || PyList_Append(texts, text)) Py_CLEAR(rest);
            Py_XDECREF(text);
        }
        if (rest != NULL)
            PyTuple_SetItem(rest, i, made);
        else
            Py_XDECREF(made);
    }
    PyObject *all = rest != NULL && texts != NULL ? PyList_AsTuple(texts) : NULL;
    if (all != NULL) both = PyTuple_Pack(2, rest, all);
    Py_XDECREF(rest);
    Py_XDECREF(texts);
    Py_XDECREF(all);
    return both;
}

// ---------------------------------------------------------------------------------------------------------- calls, SPEC 8

static int all_in(const unsigned char *text, Py_ssize_t size, uint32_t unused)
{
    uint32_t seen = 0;
    for (Py_ssize_t i = 0; i < size; i++) seen |= place[3][text[i]];
    return !(seen & INVALID) && !(place[3][text[size - 1]] & unused);
}

// {"call":["<43 digest>",<13 issued_at>,"<22 nonce>"]}, with a proof of so many characters behind the nonce, or none, as
// in ``call_proof._Form``.
static int is_call(const unsigned char *caveat, int proof, int64_t *issued_at)
{
    if (memcmp(caveat, "{\"call\":[\"", 10) || memcmp(caveat + 53, "\",", 2) || memcmp(caveat + 68, ",\"", 2) ||
        caveat[92] != '"' || caveat[55] == '0')
        return 0;
    if (proof ? memcmp(caveat + 93, ",\"", 2) || memcmp(caveat + 95 + proof, "\"]}", 3) : memcmp(caveat + 93, "]}", 2))
        return 0;
    *issued_at = 0;
    for (int i = 55; i < 68; i++) {
        if (caveat[i] < '0' || caveat[i] > '9') return 0;
        *issued_at = *issued_at * 10 + (caveat[i] - '0');
    }
    return all_in(caveat + 10, 43, 3) && all_in(caveat + 70, 22, 15) && (!proof || all_in(caveat + 95, proof, 15));
}

static PyObject *new_call(PyObject *text, Py_ssize_t head, const unsigned char *raw, int extra, const unsigned char *caveat,
                          int width, int64_t issued_at)
{
    PyObject *made = NULL, *parts[6] = {
        PyUnicode_Substring(text, 0, head),
        PyBytes_FromStringAndSize((const char *)raw, extra),
        PyBytes_FromStringAndSize((const char *)caveat, width),
        PyBytes_FromStringAndSize((const char *)caveat + width + 4, DIGEST),
        PyLong_FromLongLong(issued_at),
        PyBytes_FromStringAndSize((const char *)caveat + 10, 43),
    };
    if (parts[0] && parts[1] && parts[2] && parts[3] && parts[4] && parts[5])
        made = call(call_type, parts, 6);
    for (int i = 0; i < 6; i++) Py_XDECREF(parts[i]);
    return made;
}

static PyObject *split_call(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    static const int proofs[3] = {0, 22, 86};  // call_proof.MAC_CHARS, SIGNATURE_CHARS
    const unsigned char *text;
    Py_ssize_t size;
    if (nargs != 1 || (text = ascii(args[0], &size)) == NULL || call_type == NULL) return pure(SPLIT_CALL, args, nargs);
    if (size > MAX_CHARS) Py_RETURN_NONE;
    for (int form = 0; form < 3; form++) {
        int proof = proofs[form], width = CAVEAT + (proof ? proof + 3 : 0), head = width < 128 ? 2 : 3;
        int tail = head + width + 4 + DIGEST;
        // The bytes of the parent in the tail: with them it begins where a group of four characters does.
        for (int extra = 0; extra < 3; extra++) {
            Py_ssize_t chars = encoded_size(extra + tail);
            if ((size - chars - 5) & 3 || size < chars) continue;
            unsigned char raw[TAIL + 2];
            int64_t issued_at;
            if (decode_into(raw, text + size - chars, chars) != extra + tail) break;
            const unsigned char *caveat = raw + extra + head;
            int marked = raw[extra] == 2 && (head == 2 ? raw[extra + 1] == width
                                                       : raw[extra + 1] == ((width & 127) | 128) && raw[extra + 2] == width >> 7);
            if (!marked || memcmp(caveat + width, "\0\0\6\x20", 4) || !is_call(caveat, proof, &issued_at)) break;
            return new_call(args[0], size - chars, raw, extra, caveat, width, issued_at);
        }
    }
    Py_RETURN_NONE;
}

static int add_sized(const void *data, size_t size)
{
    unsigned char big_endian[4] = {size >> 24 & 255, size >> 16 & 255, size >> 8 & 255, size & 255};
    return add(big_endian, 4) && add(data, size);
}

static PyObject *base64_text(const unsigned char *digest)
{
    PyObject *text = PyBytes_FromStringAndSize(NULL, 43);
    if (text != NULL) encode_into((unsigned char *)PyBytes_AsString(text), digest, DIGEST);
    return text;
}

static PyObject *tool_digest(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 4 || !PyBytes_CheckExact(args[0]) || !PyBytes_CheckExact(args[1]) ||
        PyBytes_Size(args[1]) < CAVEAT || !PyUnicode_CheckExact(args[2]) || !PyBytes_CheckExact(args[3]))
        return pure(TOOL_DIGEST, args, nargs);
    const char *caveat = PyBytes_AsString(args[1]);
    Py_ssize_t tool_size, size = PyBytes_Size(args[3]);
    const char *tool = PyUnicode_AsUTF8AndSize(args[2], &tool_size);
    if (tool == NULL) return NULL;
    if (size > UINT32_MAX || tool_size > UINT32_MAX) return pure(TOOL_DIGEST, args, nargs);
    unsigned char out[DIGEST];
    if (!(begin() && add(PyBytes_AsString(args[0]), PyBytes_Size(args[0])) && add(caveat + 55, 13) &&
          add_sized(caveat + 70, 22) && add_sized("tool", 4) && add_sized(tool, tool_size) &&
          add_sized(PyBytes_AsString(args[3]), size) && end(out)) && !failed())
        return NULL;
    return base64_text(out);
}

static PyObject *http_digest(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    const unsigned char *method;
    Py_ssize_t method_size;
    if (nargs != 5 || !PyBytes_CheckExact(args[0]) || !PyBytes_CheckExact(args[1]) ||
        PyBytes_Size(args[1]) < CAVEAT || (method = ascii(args[2], &method_size)) == NULL ||
        !PyBytes_CheckExact(args[3]) || !is_key(args[4]))
        return pure(HTTP_DIGEST, args, nargs);
    const char *caveat = PyBytes_AsString(args[1]), *target = PyBytes_AsString(args[3]);
    Py_ssize_t size = PyBytes_Size(args[3]);
    // An empty query is the reference's matter.
    if (size > UINT32_MAX || method_size > UINT32_MAX || (size && target[size - 1] == '?'))
        return pure(HTTP_DIGEST, args, nargs);
    unsigned char out[DIGEST];
    if (!(begin() && add(PyBytes_AsString(args[0]), PyBytes_Size(args[0])) && add(caveat + 55, 13) &&
          add_sized(caveat + 70, 22) && add_sized("http", 4) && add_sized(method, (size_t)method_size) &&
          add_sized(target, size) && add_sized(PyBytes_AsString(args[4]), DIGEST) && end(out)) && !failed())
        return NULL;
    return base64_text(out);
}

static PyObject *is_flat(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 1 || !PyDict_CheckExact(args[0])) return pure(IS_FLAT, args, nargs);
    const long long most = (1LL << 53) - 1;
    Py_ssize_t at = 0;
    PyObject *name, *item;
    while (PyDict_Next(args[0], &at, &name, &item)) {
        if (!PyUnicode_CheckExact(name)) Py_RETURN_FALSE;
        if (PyUnicode_CheckExact(item) || PyBool_Check(item)) continue;
        if (!PyLong_CheckExact(item)) Py_RETURN_FALSE;
        int beyond;
        long long number = PyLong_AsLongLongAndOverflow(item, &beyond);
        if (beyond || number < -most || number > most) Py_RETURN_FALSE;
    }
    Py_RETURN_TRUE;
}

// --------------------------------------------------------------------------------------------------------- the module

#define FUNCTION(name) {#name, (PyCFunction)(void (*)(void))name, METH_FASTCALL, NULL}

static PyObject *refer(PyObject *self, PyObject *args);

static PyMethodDef functions[] = {  // the first COUNT in the order of the enumeration
    FUNCTION(states_of), FUNCTION(ends_in),    FUNCTION(extend),     FUNCTION(fold),        FUNCTION(links_of),
    FUNCTION(base64_of), FUNCTION(bytes_of),   FUNCTION(read_text),  FUNCTION(appended),    FUNCTION(cut_out),
    FUNCTION(walk),      FUNCTION(split_call), FUNCTION(tool_digest), FUNCTION(http_digest), FUNCTION(sha256_of),
    FUNCTION(is_flat),
    {"refer", refer, METH_VARARGS, "Register a function's Python reference, and the class of what it makes."},
    {NULL, NULL, 0, NULL},
};

static void keep(PyObject **kept, PyObject *object)
{
    PyObject *before = *kept;
    *kept = Py_NewRef(object);
    Py_XDECREF(before);
}

static int learn_third(PyObject *type)
{
    if (!PyType_Check(type) || !PyType_IsSubtype((PyTypeObject *)type, &PyTuple_Type))
        return PyErr_SetString(PyExc_TypeError, "a third-party caveat is a tuple"), 0;
    keep(&third_type, type);
    return 1;
}

static int learn_call(PyObject *type)
{
    keep(&call_type, type);
    return 1;
}

static PyObject *refer(PyObject *self, PyObject *args)
{
    const char *name;
    PyObject *function, *knows = NULL;
    if (!PyArg_ParseTuple(args, "sO|O", &name, &function, &knows)) return NULL;
    for (int i = 0; i < COUNT; i++) {
        if (strcmp(functions[i].ml_name, name)) continue;
        keep(&reference[i], function);
        if (knows != NULL && !(i == WALK ? learn_third(knows) : learn_call(knows))) return NULL;
        return PyObject_GetAttrString(self, name);
    }
    return Py_NewRef(function);  // it is not compiled
}

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "primitives", "Primitives of a call; see __init__.py.", -1, functions, NULL, NULL, NULL, NULL,
};

PyMODINIT_FUNC PyInit_primitives(void)
{
    make_tables();
    sha256 = EVP_MD_fetch(NULL, "SHA256", NULL);
    context = EVP_MD_CTX_new();
    if (sha256 == NULL || context == NULL || !EVP_DigestInit_ex2(context, sha256, NULL)) {
        PyErr_SetString(PyExc_ImportError, "libcrypto has no SHA-256");
        return NULL;
    }
    return PyModule_Create(&definition);
}
