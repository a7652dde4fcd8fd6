// SPDX-License-Identifier: Apache-2.0
//
// The compiled twin of the walk over a proven chain's caveats; see _compiled.c.
//
// What a caveat's words mean, and why a chain is refused, is said by the Python functions that are registered with it.
// A chain of another shape than a mint and holders make is left as it was, and goes to the Python walk from the start.

#include "_compiled.h"

#include <string.h>

#define MARK "\"hop\":\""  // terms.HOP_MARK
#define MARK_BYTES 7
#define HOP_CHARS 12       // terms.HOP_CHARS
#define HOP 9
#define LINK 16
#define LINK_CHARS 22
#define UNBOUND (1LL << 62)

// ------------------------------------------------------------------------------------------- the classes that are read

typedef struct {
    PyObject *type;
    int count;
    const char *const *texts;
    Py_ssize_t *offsets;
} Class;

enum { AGENT, AUD, ID, DEPTH, KID, META, MODEL, POLICY, SESSION, SUBJECT, TASK, IDENTIFIER_FIELDS };
static const char *const identifier_texts[] = {
    "agent", "aud", "id", "depth", "kid", "meta", "model", "policy", "session", "subject", "task",
};
static Py_ssize_t identifier_offsets[IDENTIFIER_FIELDS];
static Class identifier_class = {NULL, IDENTIFIER_FIELDS, identifier_texts, identifier_offsets};

enum { AGENTS, ALLOW, CAVEAT, NETWORKS, PARTS, PLAIN, TO, TERMS_FIELDS };
static const char *const terms_texts[] = {"agents", "allow", "caveat", "networks", "parts", "plain", "to"};
static Py_ssize_t terms_offsets[TERMS_FIELDS];
static Class terms_class = {NULL, TERMS_FIELDS, terms_texts, terms_offsets};

enum { C_AUD, C_DEPTH, C_EXP, C_FRESH, C_HAND_TO, C_NBF, C_ONCE, C_REQUIRE, C_TASK, CAVEAT_FIELDS };
static const char *const caveat_texts[] = {"aud", "depth", "exp", "fresh", "hand_to", "nbf", "once", "require", "task"};
static Py_ssize_t caveat_offsets[CAVEAT_FIELDS];
static Class caveat_class = {NULL, CAVEAT_FIELDS, caveat_texts, caveat_offsets};

enum {
    P_IDENTIFIER, P_KEY, P_EXP, P_NBF, P_FRESH, P_NETWORKS, P_NEEDS_CALL, P_ALLOWS, P_PLACES, P_PARTS, P_SCOPES, P_FACTS,
    P_REFUSED, P_UNMET, PROVEN_FIELDS
};
static const char *const proven_texts[] = {
    "identifier", "key",     "exp",   "nbf",    "fresh_ms", "networks", "needs_call",
    "_allows",    "_places", "parts", "scopes", "facts",    "refused",  "unmet",
};
static Py_ssize_t proven_offsets[PROVEN_FIELDS];
static Class proven_class = {NULL, PROVEN_FIELDS, proven_texts, proven_offsets};

enum { K_SCOPE, KEY_FIELDS };
static const char *const key_texts[] = {"scope"};
static Py_ssize_t key_offsets[KEY_FIELDS];
static Class key_class = {NULL, KEY_FIELDS, key_texts, key_offsets};

// What the Python module registers, in this order.
enum {
    KEPT, READ_TERMS, HOP_OF, MATCHES_ANY_PATH, PARTS_OF, AGENT_SCOPES, SUBJECT_SCOPE, ABOUT, CHAIN_FACTS, PLACES,
    ARX_ERROR, REFUSED_BY, TOO_DEEP, NOT_NAMED, WRONG_AUDIENCE, NO_HOLDER, DEMAND, HELPERS
};
static PyObject *helpers;  // a tuple

enum { REALM, BEARER, OF_SESSION, OF_LINK, OF_POLICY, OF_TASK, TEXTS };
static const char *const text_words[TEXTS] = {"realm", "bearer", "session:", "link:", "policy:", "task:"};
static PyObject *texts[TEXTS], *empty;

int learn_chain(PyObject *used)
{
    if (!PyTuple_CheckExact(used) || PyTuple_GET_SIZE(used) != HELPERS || !PyDict_Check(PyTuple_GET_ITEM(used, KEPT)))
        return PyErr_SetString(PyExc_TypeError, "the walk over a chain uses other things"), 0;
    for (int i = 0; i < TEXTS; i++)
        if (texts[i] == NULL && (texts[i] = PyUnicode_InternFromString(text_words[i])) == NULL) return 0;
    if (empty == NULL && (empty = PyTuple_New(0)) == NULL) return 0;
    Py_XSETREF(helpers, Py_NewRef(used));
    return 1;
}

// Whether an object is of a class whose fields are known, which are learnt from the first one.
static int is_of(Class *class, PyObject *object)
{
    if (object == NULL) return 0;
    if (class->type == (PyObject *)Py_TYPE(object)) return 1;
    if (class->type != NULL || object == Py_None) return 0;
    if (!find_fields((PyObject *)Py_TYPE(object), class->texts, class->count, class->offsets)) return PyErr_Clear(), 0;
    class->type = Py_NewRef((PyObject *)Py_TYPE(object));
    return 1;
}

static PyObject **slot(const Class *class, PyObject *object, int which)
{
    return (PyObject **)((char *)object + class->offsets[which]);
}

static PyObject *field(const Class *class, PyObject *object, int which)
{
    PyObject *value = *slot(class, object, which);
    return value != NULL ? value : Py_None;  // never so in what a constructor made
}

// ----------------------------------------------------------------------------------------------- the walk, SPEC 5, 6

// What is below returns one of these; the first two end the walk.
enum { REFUSED = -2, FAILED = -1 /* with an exception */, ODD = 0, GOOD = 1 };

typedef struct {
    PyObject *named, *links, *agents, *tasks, *allows, *places, *hand_to, *hand_to_at, *networks, *scopes, *unmet;  // lists
    PyObject *audience, *refused;
    unsigned char link[LINK];
    long long depth, exp, nbf, fresh, parts;
    int needs_call;
    Py_ssize_t index;
} Walk;

static PyObject *call(int helper, PyObject *const *args, size_t nargs)
{
    return PyObject_Vectorcall(PyTuple_GET_ITEM(helpers, helper), args, nargs, NULL);
}

// Remember why the caveat at hand prohibits everything.
static int refused_by(Walk *walk, PyObject *error)
{
    PyObject *args[2] = {error, PyLong_FromSsize_t(walk->index)};
    walk->refused = error != NULL && args[1] != NULL ? call(REFUSED_BY, args, 2) : NULL;
    Py_XDECREF(args[1]);
    return walk->refused != NULL ? REFUSED : FAILED;
}

// The same, by what says so of the place and of up to three things more.
static int refuse(Walk *walk, int helper, PyObject *first, PyObject *second, PyObject *third)
{
    PyObject *args[4] = {PyLong_FromSsize_t(walk->index), first, second, third};
    size_t count = 1 + (first != NULL) + (second != NULL) + (third != NULL);
    PyObject *error = args[0] != NULL ? call(helper, args, count) : NULL;
    int found = error != NULL ? refused_by(walk, error) : FAILED;
    Py_XDECREF(error);
    Py_XDECREF(args[0]);
    return found;
}

// The same, by an exception, if it is one that says why a token is refused.
static int refused_by_exception(Walk *walk)
{
    if (!PyErr_ExceptionMatches(PyTuple_GET_ITEM(helpers, ARX_ERROR))) return FAILED;
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyErr_NormalizeException(&type, &value, &traceback);
    int found = refused_by(walk, value);
    Py_XDECREF(type);
    Py_XDECREF(value);
    Py_XDECREF(traceback);
    return found;
}

static int append_new(PyObject *list, PyObject *value)
{
    int found = value != NULL && PyList_Append(list, value) == 0 ? GOOD : FAILED;
    Py_XDECREF(value);
    return found;
}

static int append_text(PyObject *list, int head, PyObject *text)
{
    if (text == Py_None) return GOOD;
    return PyUnicode_CheckExact(text) ? append_new(list, PyUnicode_Concat(texts[head], text)) : ODD;
}

static int extend_list(PyObject *list, PyObject *with)
{
    Py_ssize_t end = PyList_GET_SIZE(list);
    return PyList_SetSlice(list, end, end, with) == 0 ? GOOD : FAILED;
}

static int number(PyObject *value, long long *found)
{
    int beyond;
    if (!PyLong_CheckExact(value)) return ODD;
    *found = PyLong_AsLongLongAndOverflow(value, &beyond);
    return beyond ? ODD : GOOD;
}

// Take the smaller, or the larger, of a limit and what a caveat says, if it says something.
static int bound(long long *limit, PyObject *said, int larger)
{
    long long found;
    if (said == Py_None) return GOOD;
    if (!number(said, &found)) return ODD;
    if (larger ? found > *limit : found < *limit) *limit = found;
    return GOOD;
}

// What a caveat says, by its bytes without its hop, which is returned apart.
static int find_terms(Walk *walk, PyObject *packet, PyObject **terms, const unsigned char **hop)
{
    const char *raw = PyBytes_AS_STRING(packet);
    Py_ssize_t size = PyBytes_GET_SIZE(packet), at = size - MARK_BYTES;
    while (at >= 0 && memcmp(raw + at, MARK, MARK_BYTES)) at--;
    PyObject *key = packet;
    *hop = NULL;
    if (at < 0) Py_INCREF(key);
    else {
        Py_ssize_t start = at + MARK_BYTES, rest = size - start - HOP_CHARS;
        if (rest < 0) return ODD;
        if ((key = PyBytes_FromStringAndSize(NULL, start + 1 + rest)) == NULL) return FAILED;
        char *out = PyBytes_AS_STRING(key);
        memcpy(out, raw, (size_t)start);
        out[start] = 0;  // terms.GAP
        memcpy(out + start + 1, raw + start + HOP_CHARS, (size_t)rest);
        *hop = (const unsigned char *)raw + start;
    }
    *terms = Py_XNewRef(PyDict_GetItemWithError(PyTuple_GET_ITEM(helpers, KEPT), key));
    Py_DECREF(key);
    if (*terms != NULL) return GOOD;
    if (PyErr_Occurred()) return FAILED;
    *terms = call(READ_TERMS, &packet, 1);
    return *terms != NULL ? GOOD : refused_by_exception(walk);
}

static int may_hand_to(Walk *walk, PyObject *to)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(walk->hand_to); i++) {
        PyObject *args[2] = {PyList_GET_ITEM(walk->hand_to, i), to};
        PyObject *said = call(MATCHES_ANY_PATH, args, 2);
        int found = said != NULL ? PyObject_IsTrue(said) : FAILED;
        Py_XDECREF(said);
        if (found < 0) return FAILED;
        if (!found) return refuse(walk, NOT_NAMED, PyList_GET_ITEM(walk->hand_to_at, i), args[0], to);
    }
    return GOOD;
}

// As terms.hop_of, which says what is wrong.
static int read_hop(Walk *walk, unsigned char *raw, PyObject *packet, const unsigned char *hop)
{
    if (hop == NULL) return ODD;
    if (decode_into(raw, hop, HOP_CHARS) == HOP) return GOOD;
    const char *end = PyBytes_AS_STRING(packet) + PyBytes_GET_SIZE(packet);
    PyObject *args[2] = {packet, PyBytes_FromStringAndSize((const char *)hop, end - (const char *)hop)};
    PyObject *said = args[1] != NULL ? call(HOP_OF, args, 2) : NULL;
    int found = said != NULL ? ODD : args[1] != NULL ? refused_by_exception(walk) : FAILED;
    Py_XDECREF(said);
    Py_XDECREF(args[1]);
    return found;
}

static int hand_over(Walk *walk, PyObject *terms, PyObject *to, PyObject *packet, const unsigned char *hop)
{
    unsigned char raw[HOP], text[LINK_CHARS];
    int found = read_hop(walk, raw, packet, hop);
    if (found > 0 && walk->depth == 0) found = refuse(walk, TOO_DEEP, to, NULL, NULL);
    if (found > 0) found = may_hand_to(walk, to);
    if (found <= 0) return found;
    if (!link_into(walk->link, walk->link, LINK, raw, HOP)) return FAILED;
    encode_into(text, walk->link, LINK);
    walk->depth--;
    if (PyList_Append(walk->named, to) < 0) return FAILED;
    if (append_new(walk->links, PyUnicode_FromStringAndSize((char *)text, LINK_CHARS)) < 0) return FAILED;
    return extend_list(walk->agents, field(&terms_class, terms, AGENTS));
}

static int take_require(Walk *walk, PyObject *require)
{
    if (require == Py_None) return GOOD;
    if (!PyTuple_CheckExact(require)) return ODD;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(require); i++) {
        PyObject *proof = PyTuple_GET_ITEM(require, i);
        if (!PyUnicode_CheckExact(proof)) return ODD;
        if (!PyUnicode_CompareWithASCIIString(proof, "holder")) return refuse(walk, NO_HOLDER, NULL, NULL, NULL);
    }
    walk->needs_call = 1;
    return GOOD;
}

static PyObject *place_of(const Walk *walk)
{
    return PyTuple_GET_ITEM(PyTuple_GET_ITEM(helpers, PLACES), walk->index + 1);
}

// What a caveat says beside `allow` and the hand-over.
static int take_rest(Walk *walk, PyObject *terms)
{
    PyObject *caveat = field(&terms_class, terms, CAVEAT), *networks = field(&terms_class, terms, NETWORKS);
    PyObject *of[CAVEAT_FIELDS];
    if (!is_of(&caveat_class, caveat) || !PyTuple_CheckExact(networks)) return ODD;
    for (int i = 0; i < CAVEAT_FIELDS; i++) of[i] = field(&caveat_class, caveat, i);
    if (of[C_ONCE] != Py_None) return ODD;  // what comes with an approval is left to the Python walk
    if (of[C_AUD] != Py_None) {
        int found = PySequence_Contains(of[C_AUD], walk->audience);
        if (found <= 0) return found < 0 ? FAILED : refuse(walk, WRONG_AUDIENCE, of[C_AUD], walk->audience, NULL);
    }
    if (!bound(&walk->exp, of[C_EXP], 0) || !bound(&walk->nbf, of[C_NBF], 1) || !bound(&walk->fresh, of[C_FRESH], 0))
        return ODD;
    if (PyTuple_GET_SIZE(networks)) {
        if (append_new(walk->networks, PyTuple_Pack(2, place_of(walk), networks)) < 0) return FAILED;
    }
    int found = take_require(walk, of[C_REQUIRE]);
    if (found > 0) found = bound(&walk->depth, of[C_DEPTH], 0);
    if (found <= 0) return found;
    if (of[C_HAND_TO] != Py_None && (PyList_Append(walk->hand_to, of[C_HAND_TO]) < 0 ||
                                     append_new(walk->hand_to_at, PyLong_FromSsize_t(walk->index)) < 0))
        return FAILED;
    return of[C_TASK] != Py_None && PyList_Append(walk->tasks, of[C_TASK]) < 0 ? FAILED : GOOD;
}

static int take_in(Walk *walk, PyObject *terms, PyObject *packet, const unsigned char *hop)
{
    long long parts;
    if (!is_of(&terms_class, terms) || !number(field(&terms_class, terms, PARTS), &parts)) return ODD;
    PyObject *to = field(&terms_class, terms, TO), *allow = field(&terms_class, terms, ALLOW);
    walk->parts += parts;
    if (!PyUnicode_CheckExact(to)) return ODD;
    if (PyUnicode_GET_LENGTH(to)) {
        int found = hand_over(walk, terms, to, packet, hop);
        if (found <= 0) return found;
    }
    if (allow != Py_None &&
        (PyList_Append(walk->allows, allow) < 0 || PyList_Append(walk->places, place_of(walk)) < 0))
        return FAILED;
    if (walk->index == 0 && allow == Py_None) return ODD;  // a token's first caveat says what it allows
    return field(&terms_class, terms, PLAIN) == Py_True ? GOOD : take_rest(walk, terms);
}

// What a third party must agree to.
static int take_demand(Walk *walk, PyObject *packet)
{
    long long parts;
    PyObject *args[2] = {PyLong_FromSsize_t(walk->index), packet};
    if (args[0] == NULL) return FAILED;
    PyObject *said = call(DEMAND, args, 2);
    Py_DECREF(args[0]);
    if (said == NULL) return refused_by_exception(walk);
    int found = PyTuple_CheckExact(said) && PyTuple_GET_SIZE(said) == 2 ? number(PyTuple_GET_ITEM(said, 1), &parts) : ODD;
    if (found > 0) {
        walk->parts += parts;
        if (PyList_Append(walk->unmet, PyTuple_GET_ITEM(said, 0)) < 0) found = FAILED;
    }
    Py_DECREF(said);
    return found;
}

static int take_in_all(Walk *walk, PyObject *packets)
{
    Py_ssize_t count = PyTuple_GET_SIZE(packets);
    if (count == 0 || count >= PyTuple_GET_SIZE(PyTuple_GET_ITEM(helpers, PLACES))) return ODD;
    for (walk->index = 0; walk->index < count; walk->index++) {
        PyObject *packet = PyTuple_GET_ITEM(packets, walk->index), *terms = NULL;
        const unsigned char *hop;
        int found;
        if (PyBytes_CheckExact(packet)) {
            found = find_terms(walk, packet, &terms, &hop);
            if (found > 0) found = take_in(walk, terms, packet, hop);
        } else found = walk->index > 0 ? take_demand(walk, packet) : ODD;
        Py_XDECREF(terms);
        if (found <= 0) return found;
    }
    return GOOD;
}

// ----------------------------------------------------------------------------------------------------- what came of it

static int extend_by(PyObject *list, int helper, PyObject *const *args, size_t nargs)
{
    PyObject *said = call(helper, args, nargs);
    int found = said == NULL ? FAILED : PyUnicode_Check(said) ? append_new(list, Py_NewRef(said)) : extend_list(list, said);
    Py_XDECREF(said);
    return found;
}

static int append_all(PyObject *list, int head, PyObject *names)
{
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(names); i++) {
        int found = append_text(list, head, PyList_GET_ITEM(names, i));
        if (found <= 0) return found;
    }
    return GOOD;
}

// As ProvenChain._name: everything whose end ends the token.
static int list_scopes(Walk *walk, PyObject *scope, PyObject *const *of)
{
    PyObject *list = walk->scopes;
    if (PyList_Append(list, texts[REALM]) < 0 || PyList_Append(list, scope) < 0) return FAILED;
    int found = append_text(list, OF_SESSION, of[SESSION]);
    if (found > 0) found = append_text(list, OF_LINK, of[ID]);
    if (found > 0) found = extend_by(list, AGENT_SCOPES, &of[AGENT], 1);
    if (found > 0 && of[SUBJECT] != Py_None) {
        if (!PyTuple_CheckExact(of[SUBJECT]) || PyTuple_GET_SIZE(of[SUBJECT]) != 2) return ODD;
        PyObject *who[2] = {PyTuple_GET_ITEM(of[SUBJECT], 0), PyTuple_GET_ITEM(of[SUBJECT], 1)};
        found = extend_by(list, SUBJECT_SCOPE, who, 2);
    }
    if (found > 0) found = append_text(list, OF_POLICY, of[POLICY]);
    if (found > 0) found = append_text(list, OF_TASK, of[TASK]);
    if (found > 0) found = append_all(list, OF_TASK, walk->tasks);
    if (found > 0) found = extend_list(list, walk->agents);
    return found > 0 ? append_all(list, OF_LINK, walk->links) : found;
}

static PyObject *make_facts(Walk *walk, PyObject *identifier, PyObject *const *of)
{
    PyObject *meta = of[META] == Py_None ? Py_NewRef(empty)
                                         : call(ABOUT, &identifier, 1);
    PyObject *named = PyList_AsTuple(walk->named), *links = PyList_AsTuple(walk->links);
    PyObject *tasks = PyList_AsTuple(walk->tasks), *facts = NULL;
    if (meta && named && links && tasks) {
        PyObject *args[] = {
            of[AGENT],  of[SESSION], named,       links,     of[TASK],    tasks, of[ID], of[AUD],
            of[POLICY], of[KID],     texts[BEARER], of[MODEL], of[SUBJECT], meta,
        };
        facts = call(CHAIN_FACTS, args, sizeof args / sizeof *args);
    }
    Py_XDECREF(meta);
    Py_XDECREF(named);
    Py_XDECREF(links);
    Py_XDECREF(tasks);
    return facts;
}

// Tell the chain, once nothing can fail any more.
static int tell(Walk *walk, PyObject *proven, PyObject *facts)
{
    PyObject *made[] = {
        PyLong_FromLongLong(walk->exp),
        PyLong_FromLongLong(walk->nbf),
        walk->fresh < UNBOUND ? PyLong_FromLongLong(walk->fresh) : Py_NewRef(Py_None),
        PyList_AsTuple(walk->networks),
        PyBool_FromLong(walk->needs_call),
        PyList_AsTuple(walk->allows),
        Py_NewRef(walk->places),
        PyLong_FromLongLong(walk->parts),
        PyList_AsTuple(walk->scopes),
        Py_NewRef(facts),
        Py_NewRef(walk->refused != NULL ? walk->refused : Py_None),
        PyList_AsTuple(walk->unmet),
    };
    int good = 1, count = sizeof made / sizeof *made;
    for (int i = 0; i < count; i++) good = good && made[i] != NULL;
    for (int i = 0; i < count; i++) {
        if (good) Py_XSETREF(*slot(&proven_class, proven, P_EXP + i), made[i]);
        else Py_XDECREF(made[i]);
    }
    return good ? GOOD : FAILED;
}

// What a refused chain may cost is told by its bytes.
static int count_parts(Walk *walk, PyObject *packets)
{
    PyObject *parts = call(PARTS_OF, &packets, 1);
    int found = parts != NULL ? number(parts, &walk->parts) : FAILED;
    Py_XDECREF(parts);
    return found;
}

static int read_all(Walk *walk, PyObject *proven, PyObject *packets)
{
    PyObject *identifier = field(&proven_class, proven, P_IDENTIFIER), *key = field(&proven_class, proven, P_KEY);
    if (!is_of(&identifier_class, identifier) || !is_of(&key_class, key)) return ODD;
    PyObject *of[IDENTIFIER_FIELDS];
    for (int i = 0; i < IDENTIFIER_FIELDS; i++) of[i] = field(&identifier_class, identifier, i);
    if (!PyUnicode_CheckExact(of[ID]) || !PyUnicode_IS_COMPACT_ASCII(of[ID]) ||
        PyUnicode_GET_LENGTH(of[ID]) != LINK_CHARS ||
        decode_into(walk->link, PyUnicode_1BYTE_DATA(of[ID]), LINK_CHARS) != LINK || !number(of[DEPTH], &walk->depth) ||
        !number(field(&proven_class, proven, P_EXP), &walk->exp))
        return ODD;
    walk->fresh = UNBOUND;
    walk->parts = PyTuple_GET_SIZE(packets);
    int found = take_in_all(walk, packets);
    if (found == REFUSED) found = count_parts(walk, packets);
    if (found > 0) found = list_scopes(walk, field(&key_class, key, K_SCOPE), of);
    if (found <= 0) return found;
    PyObject *facts = make_facts(walk, identifier, of);
    found = facts != NULL ? tell(walk, proven, facts) : FAILED;
    Py_XDECREF(facts);
    return found;
}

PyObject *read_caveats(PyObject *self, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 3 || helpers == NULL || !is_of(&proven_class, args[0]) || !PyTuple_CheckExact(args[1]))
        return pure(READ_CAVEATS, args, nargs);
    Walk walk = {.audience = args[2]};
    PyObject **const lists[] = {&walk.named,  &walk.links,   &walk.agents,     &walk.tasks,    &walk.allows,
                                &walk.places, &walk.hand_to, &walk.hand_to_at, &walk.networks, &walk.scopes,
                                &walk.unmet};
    int found = GOOD, count = sizeof lists / sizeof *lists;
    for (int i = 0; i < count; i++)
        if ((*lists[i] = PyList_New(0)) == NULL) found = FAILED;
    if (found > 0) found = read_all(&walk, args[0], args[1]);
    for (int i = 0; i < count; i++) Py_XDECREF(*lists[i]);
    Py_XDECREF(walk.refused);
    if (found == ODD) return pure(READ_CAVEATS, args, nargs);
    return found > 0 ? Py_NewRef(Py_None) : NULL;
}
