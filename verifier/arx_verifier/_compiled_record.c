// SPDX-License-Identifier: Apache-2.0
//
// The compiled twins of what writes a decision's record and of a journal's way of keeping it; see _compiled.c.
//
// The record is written as MessagePack and copied into the mapped file under the journal's own lock, which is taken and
// given back by its methods, so that threads in Python and here keep each other out.  While it is held nothing of
// Python runs but reading and setting plain attributes.

#include "_compiled.h"

#include <stdint.h>
#include <structmember.h>
#include <string.h>

#define CALL_BYTES 4096          // decisions._CALL_BYTES
#define RECORD_BYTES (32 * 1024) // decisions.MAX_RECORD_BYTES
#define HEADER_BYTES 256         // segment.HEADER_BYTES
#define DENIED_AT 12             // segment._DENIED_AT
#define FRAME 12                 // spool._FRAME
#define LOOK_MS 1000             // spool._LOOK_MS
#define FACTS_BYTES (8 * 1024)   // more than a token has room for
#define KEPT_FACTS 12            // records._KEPT_FACTS
#define MAX_INTEGER (1LL << 53)

// ----------------------------------------------------------------------------------------- a decision and its journal

// In the order in which a record holds them: the call, then what can be erased of it.
enum {
    AT, CODE, TOOL, ARGS_DIGEST, INC, APPLIED, AGE_MS, FAILURES, ENDS, COUNTS, GAP,
    SALT, PEER, REQUEST_ID, TRACEPARENT, ARGUMENTS, FACTS, SEQUENCE, VERIFIER, BOOT, FIELDS
};
static const char *const field_names[FIELDS] = {
    "at",   "code", "tool",       "args_digest", "inc",       "applied", "age_ms",   "failures", "ends", "counts", "gap",
    "salt", "peer", "request_id", "traceparent", "arguments", "facts",   "sequence", "verifier", "boot",
};
static PyObject *decision_type;  // decisions.Decision
static Py_ssize_t offsets[FIELDS];

enum { ALL_FACTS = KEPT_FACTS + 2 };
static const char *const fact_names[ALL_FACTS] = {
    "agent",  "session", "named",      "links", "task",    "tasks", "token", "audience",
    "policy", "kid",     "assurance", "model", "subject", "meta",
};
static PyObject *facts_type;  // records.ChainFacts
static Py_ssize_t fact_offsets[ALL_FACTS];

enum {
    LOCK, SEGMENT, LOOKED_MS, RESERVE, DENIED_LEFT, LAST, VERIFIER_ID, RUN,
    ROOM, SIZE, MAP, PACKED, ACQUIRE, RELEASE, NAMES
};
static const char *const name_texts[NAMES] = {
    "_lock", "_segment", "_looked_ms", "_reserve", "_denied_left", "_sequence", "verifier_id", "boot",
    "room",  "size",     "_map",       "packed",   "acquire",      "release",
};
static PyObject *names[NAMES];

static uint32_t crc_table[8][256];

static void make_crc_table(void)
{
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t value = i;
        for (int bit = 0; bit < 8; bit++) value = value >> 1 ^ (value & 1 ? 0xedb88320u : 0);
        crc_table[0][i] = value;
    }
    for (int i = 0; i < 256; i++)
        for (int at = 1; at < 8; at++)
            crc_table[at][i] = crc_table[at - 1][i] >> 8 ^ crc_table[0][crc_table[at - 1][i] & 255];
}

int learn_facts(PyObject *type)
{
    if (!find_fields(type, fact_names, ALL_FACTS, fact_offsets)) return 0;
    Py_XSETREF(facts_type, Py_NewRef(type));
    return 1;
}

int learn_decision(PyObject *type)
{
    for (int i = 0; i < NAMES; i++)
        if (names[i] == NULL && (names[i] = PyUnicode_InternFromString(name_texts[i])) == NULL) return 0;
    if (!find_fields(type, field_names, FIELDS, offsets)) return 0;
    make_crc_table();
    Py_XSETREF(decision_type, Py_NewRef(type));
    return 1;
}

static PyObject **field_of(PyObject *decision, int which) { return (PyObject **)((char *)decision + offsets[which]); }

static int read_number(PyObject *object, int name, long long *number)
{
    PyObject *value = PyObject_GetAttr(object, names[name]);
    if (value == NULL) return 0;
    *number = PyLong_AsLongLong(value);
    Py_DECREF(value);
    return !(*number == -1 && PyErr_Occurred());
}

// -------------------------------------------------------------------------------------- MessagePack, as records.encode

typedef struct {
    unsigned char *at, *end;
    int good;  // whether all had room and was of a kind that is written here
} Writer;

static void put(Writer *writer, const void *data, size_t size)
{
    if (size > (size_t)(writer->end - writer->at)) writer->good = 0;
    if (!writer->good) return;
    memcpy(writer->at, data, size);
    writer->at += size;
}

static void put_big_endian(Writer *writer, int head, uint64_t number, int bytes)
{
    unsigned char raw[9] = {(unsigned char)head};
    for (int i = 0; i < bytes; i++) raw[1 + i] = (unsigned char)(number >> 8 * (bytes - 1 - i));
    put(writer, raw, 1 + (size_t)bytes);
}

static void put_array(Writer *writer, Py_ssize_t size)
{
    if (size > 0xffff) writer->good = 0;
    else if (size < 16) put_big_endian(writer, 0x90 | (int)size, 0, 0);
    else put_big_endian(writer, 0xdc, (uint64_t)size, 2);
}

static void put_text(Writer *writer, PyObject *text)
{
    Py_ssize_t size = 0;
    const char *data = PyUnicode_AsUTF8AndSize(text, &size);
    if (data == NULL) PyErr_Clear();  // half a surrogate pair: the reference knows how to write it
    if (data == NULL || size > CALL_BYTES) writer->good = 0;
    else if (size < 32) put_big_endian(writer, 0xa0 | (int)size, 0, 0);
    else put_big_endian(writer, size < 256 ? 0xd9 : 0xda, (uint64_t)size, size < 256 ? 1 : 2);
    if (writer->good) put(writer, data, (size_t)size);
}

static void put_bytes(Writer *writer, PyObject *raw)
{
    Py_ssize_t size = PyBytes_GET_SIZE(raw);
    if (size > CALL_BYTES) writer->good = 0;
    else put_big_endian(writer, size < 256 ? 0xc4 : 0xc5, (uint64_t)size, size < 256 ? 1 : 2);
    put(writer, PyBytes_AS_STRING(raw), (size_t)size);
}

static void put_integer(Writer *writer, PyObject *integer)
{
    int beyond;
    long long number = PyLong_AsLongLongAndOverflow(integer, &beyond);
    if (beyond || number < -1 || number > MAX_INTEGER) writer->good = 0;
    else if (number < 128) put_big_endian(writer, (int)(number & 0xff), 0, 0);
    else if (number < 1LL << 8) put_big_endian(writer, 0xcc, (uint64_t)number, 1);
    else if (number < 1LL << 16) put_big_endian(writer, 0xcd, (uint64_t)number, 2);
    else if (number < 1LL << 32) put_big_endian(writer, 0xce, (uint64_t)number, 4);
    else put_big_endian(writer, 0xcf, (uint64_t)number, 8);
}

// `depth` bounds how far tuples are followed.
static void put_value(Writer *writer, PyObject *value, int depth)
{
    if (value == Py_None) put(writer, "\xc0", 1);
    else if (value == NULL) writer->good = 0;
    else if (PyUnicode_CheckExact(value)) put_text(writer, value);
    else if (PyBytes_CheckExact(value)) put_bytes(writer, value);
    else if (PyLong_CheckExact(value)) put_integer(writer, value);
    else if (PyTuple_CheckExact(value) && depth > 0) {
        put_array(writer, PyTuple_GET_SIZE(value));
        for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(value) && writer->good; i++)
            put_value(writer, PyTuple_GET_ITEM(value, i), depth - 1);
    } else writer->good = 0;
}

// The first or the last two texts of each failure.
static void put_failures(Writer *writer, PyObject *failures, int from)
{
    Py_ssize_t count = PyTuple_GET_SIZE(failures);
    put_array(writer, count);
    for (Py_ssize_t i = 0; i < count && writer->good; i++) {
        PyObject *failure = PyTuple_GET_ITEM(failures, i);
        if (!PyTuple_Check(failure) || PyTuple_GET_SIZE(failure) != 4) {
            writer->good = 0;
            return;
        }
        put_array(writer, 2);
        put_value(writer, PyTuple_GET_ITEM(failure, from), 0);
        put_value(writer, PyTuple_GET_ITEM(failure, from + 1), 0);
    }
}

// What Decision.pack writes behind the chain's facts; return its size, or 0 where the reference has to write it.
static size_t pack_call(unsigned char *out, PyObject *decision)
{
    Writer writer = {out, out + CALL_BYTES, 1};
    PyObject *failures = *field_of(decision, FAILURES), *counts = *field_of(decision, COUNTS);
    PyObject *salt = *field_of(decision, SALT);
    if (failures == NULL || !PyTuple_CheckExact(failures) || counts == NULL || !PyTuple_CheckExact(counts) ||
        PyTuple_GET_SIZE(counts) || *field_of(decision, GAP) != Py_None || salt == NULL || !PyBytes_CheckExact(salt) ||
        PyBytes_GET_SIZE(salt) == 0)
        return 0;
    put_array(&writer, 2);
    put_array(&writer, 11);
    for (int i = AT; i < FAILURES; i++) put_value(&writer, *field_of(decision, i), 0);
    put_failures(&writer, failures, 0);
    put_value(&writer, *field_of(decision, ENDS), 0);
    put_array(&writer, 0);
    put_value(&writer, Py_None, 0);
    put_array(&writer, 7);
    put_value(&writer, salt, 0);
    put_failures(&writer, failures, 2);
    for (int i = PEER; i < ARGUMENTS; i++) put_value(&writer, *field_of(decision, i), 0);
    put_array(&writer, 0);
    put_value(&writer, *field_of(decision, ARGUMENTS), 0);
    return writer.good ? (size_t)(writer.at - out) : 0;
}

PyObject *pack_facts(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 1 || facts_type == NULL || !Py_IS_TYPE(args[0], (PyTypeObject *)facts_type))
        return pure(PACK_FACTS, args, nargs);
    unsigned char out[FACTS_BYTES];
    Writer writer = {out, out + FACTS_BYTES, 1};
    put(&writer, "\x94\2", 2);  // records._JOURNAL
    for (int i = 0; i < ALL_FACTS; i++) {
        if (i == 0) put_array(&writer, KEPT_FACTS);
        if (i == KEPT_FACTS) put_array(&writer, ALL_FACTS - KEPT_FACTS);
        put_value(&writer, *(PyObject **)((char *)args[0] + fact_offsets[i]), 2);
    }
    if (!writer.good) return pure(PACK_FACTS, args, nargs);
    return PyBytes_FromStringAndSize((char *)out, writer.at - out);
}

// ----------------------------------------------------------------------------------------- the journal's file, SPEC 12

typedef struct {
    const unsigned char *data;
    size_t size;
} Part;

static uint32_t crc32_of(uint32_t crc, Part part)
{
    const unsigned char *at = part.data, *end = at + part.size;
    crc = ~crc;
    for (; end - at >= 8; at += 8) {
        uint32_t low = crc ^ ((uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24);
        crc = crc_table[7][low & 255] ^ crc_table[6][low >> 8 & 255] ^ crc_table[5][low >> 16 & 255] ^
              crc_table[4][low >> 24] ^ crc_table[3][at[4]] ^ crc_table[2][at[5]] ^ crc_table[1][at[6]] ^
              crc_table[0][at[7]];
    }
    while (at < end) crc = crc >> 8 ^ crc_table[0][(crc ^ *at++) & 255];
    return ~crc;
}

static void store(unsigned char *to, uint32_t number)
{
    unsigned char raw[4] = {number & 255, number >> 8 & 255, number >> 16 & 255, number >> 24 & 255};
    memcpy(to, raw, 4);
}

// As Segment.denied, in this machine's order.
static void deny(unsigned char *file, long long size)
{
    uint32_t denied;
    memcpy(&denied, file + DENIED_AT, sizeof denied);
    denied += (uint32_t)size;
    memcpy(file + DENIED_AT, &denied, sizeof denied);
}

// As Segment.write: what has a length is whole, so the length is stored after all else.
static void write_record(unsigned char *start, Part facts, Part call, long long sequence)
{
    memcpy(start + 8, facts.data, facts.size);
    memcpy(start + 8 + facts.size, call.data, call.size);
    store(start + 4, crc32_of(crc32_of((uint32_t)sequence, facts), call));
    __atomic_thread_fence(__ATOMIC_RELEASE);
    store(start, (uint32_t)(facts.size + call.size));
}

static int is_allow(PyObject *decision)
{
    PyObject *code = *field_of(decision, CODE);
    return PyUnicode_GET_LENGTH(code) == 2 && PyUnicode_READ_CHAR(code, 0) == 'o' && PyUnicode_READ_CHAR(code, 1) == 'k';
}

// What is said of a record once it is written.  The first three are the decision's, in the order of its fields.
enum { NEW_SEQUENCE, NEW_VERIFIER, NEW_BOOT, NEW_ROOM, NEW_LEFT, NEWS };

// All of it is made before anything is written: a record whose number could not be told for want of memory would give
// that number to the next one too, and no reader would find it.
static int make_news(PyObject **news, PyObject *journal, long long sequence, long long room, long long left)
{
    news[NEW_SEQUENCE] = PyLong_FromLongLong(sequence);
    news[NEW_VERIFIER] = PyObject_GetAttr(journal, names[VERIFIER_ID]);
    news[NEW_BOOT] = PyObject_GetAttr(journal, names[RUN]);
    news[NEW_ROOM] = PyLong_FromLongLong(room);
    news[NEW_LEFT] = PyLong_FromLongLong(left);
    for (int i = 0; i < NEWS; i++)
        if (news[i] == NULL) return 0;
    return 1;
}

// Setting what is there already takes no memory.
static int tell_news(PyObject **news, PyObject *journal, PyObject *segment, PyObject *decision, int allow)
{
    if (PyObject_SetAttr(segment, names[ROOM], news[NEW_ROOM]) || PyObject_SetAttr(journal, names[LAST], news[NEW_SEQUENCE]) ||
        (!allow && PyObject_SetAttr(journal, names[DENIED_LEFT], news[NEW_LEFT])))
        return 0;
    for (int i = NEW_SEQUENCE; i <= NEW_BOOT; i++) Py_XSETREF(*field_of(decision, SEQUENCE + i), Py_NewRef(news[i]));
    return 1;
}

// Under the lock: return the sequence, 0 where more has to be done first, or -1 with an exception.
static long long keep_locked(PyObject *journal, PyObject *segment, PyObject *decision, Part facts, Part call)
{
    long long at = PyLong_AsLongLong(*field_of(decision, AT)), room, size, looked, reserve, last, left = 0;
    long long stored = (long long)((facts.size + call.size + 11) & ~(size_t)3);
    long long needed = (long long)(facts.size + call.size) + FRAME;
    int allow = is_allow(decision);
    if (!read_number(segment, ROOM, &room) || !read_number(segment, SIZE, &size) ||
        !read_number(journal, LOOKED_MS, &looked) || !read_number(journal, RESERVE, &reserve) ||
        !read_number(journal, LAST, &last) || (!allow && !read_number(journal, DENIED_LEFT, &left)))
        return -1;
    if (room < needed + (allow ? reserve : 0) || at < looked || at - looked >= LOOK_MS || (!allow && left < needed)) return 0;
    PyObject *news[NEWS] = {NULL}, *map = PyObject_GetAttr(segment, names[MAP]);
    Py_buffer view;
    long long sequence = -1;
    if (map != NULL && make_news(news, journal, last + 1, room - stored, left - needed) &&
        PyObject_GetBuffer(map, &view, PyBUF_WRITABLE) == 0) {
        unsigned char *file = view.buf;
        sequence = size == view.len && room <= size - HEADER_BYTES && (size - room) % 4 == 0 ? last + 1 : 0;
        if (sequence && !allow) deny(file, needed);
        if (sequence) write_record(file + (size - room), facts, call, sequence);
        if (sequence && !tell_news(news, journal, segment, decision, allow)) sequence = -1;
        PyBuffer_Release(&view);
    }
    for (int i = 0; i < NEWS; i++) Py_XDECREF(news[i]);
    Py_XDECREF(map);
    return sequence;
}

// Also with an exception on its way, which stays.
static int give_back(PyObject *lock)
{
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *given = PyObject_CallMethodNoArgs(lock, names[RELEASE]);
    Py_XDECREF(given);
    if (given != NULL) PyErr_Restore(type, value, traceback);
    return given != NULL;
}

static long long keep(PyObject *journal, PyObject *decision, Part facts, Part call)
{
    PyObject *lock = PyObject_GetAttr(journal, names[LOCK]);
    PyObject *taken = lock != NULL ? PyObject_CallMethodNoArgs(lock, names[ACQUIRE]) : NULL;
    long long sequence = taken != NULL ? 0 : -1;
    if (taken != NULL) {
        PyObject *segment = PyObject_GetAttr(journal, names[SEGMENT]);
        if (segment == NULL) sequence = -1;
        else if (segment != Py_None) sequence = keep_locked(journal, segment, decision, facts, call);
        Py_XDECREF(segment);
        if (!give_back(lock)) sequence = -1;
    }
    Py_XDECREF(taken);
    Py_XDECREF(lock);
    return sequence;
}

PyObject *keep_at_once(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2 || decision_type == NULL || !Py_IS_TYPE(args[1], (PyTypeObject *)decision_type))
        return pure(KEEP_AT_ONCE, args, nargs);
    unsigned char out[CALL_BYTES];
    PyObject *decision = args[1], *code = *field_of(decision, CODE), *at = *field_of(decision, AT);
    PyObject *facts = *field_of(decision, FACTS);
    if (code == NULL || !PyUnicode_CheckExact(code) || at == NULL || !PyLong_CheckExact(at) || facts == NULL)
        return pure(KEEP_AT_ONCE, args, nargs);
    size_t size = pack_call(out, decision);
    if (size == 0) return pure(KEEP_AT_ONCE, args, nargs);
    PyObject *packed = PyObject_GetAttr(facts, names[PACKED]);
    if (packed == NULL) return NULL;
    if (!PyBytes_CheckExact(packed) || (size_t)PyBytes_GET_SIZE(packed) + size > RECORD_BYTES) {
        Py_DECREF(packed);
        return pure(KEEP_AT_ONCE, args, nargs);
    }
    Part first = {(unsigned char *)PyBytes_AS_STRING(packed), (size_t)PyBytes_GET_SIZE(packed)}, call = {out, size};
    long long sequence = keep(args[0], decision, first, call);
    Py_DECREF(packed);
    // Without memory CPython does not always say so.
    if (sequence < 0) return PyErr_Occurred() ? NULL : PyErr_NoMemory();
    return PyLong_FromLongLong(sequence);
}
