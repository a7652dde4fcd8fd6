# SPDX-License-Identifier: Apache-2.0
"""Vectors of decision records (SPEC 12): what a journal holds, the two parts made of it, and the leaf's hash.

Made with ``msgpack``, which shares no code with the verifier's writer.
"""

import hashlib
from typing import Any

import msgpack

from tests.vectors import second
from tests.vectors.second import AT, INCARNATION

FACTS = [
    "acme/support",
    "s-abcdefghij234567",
    ["acme/worker"],
    ["L" * 22],
    "t-abcdefghij234567",
    [],
    "T" * 22,
    "orders",
]
FACTS += ["p" * 22, "k1.0", "bearer", "model-1"]
STRANGER: list[Any] = ["", "", [], [], None, [], "", "", None, "", "bearer", None]
SALT = b"salt-00000000001"
ARGUMENTS = b'{"amount":20,"order":"A-1"}'


def vectors() -> dict[str, dict[str, Any]]:
    """All of this file."""
    digest = hashlib.sha256(SALT + ARGUMENTS).digest()
    caveats = ['{"allow":[{"args":{"amount":{"range":[0,10]}},"tool":"orders.refund"}],"to":"acme/worker"}']
    person = [["https://idp.example", "ann"], [["owner", "bob"]], [caveats]]
    allow = [AT, "ok", "orders.refund", digest, INCARNATION, 7, 12, [], 0, [], None]
    rest = [SALT, [], "192.0.2.7", "rq-1", "00-" + "a" * 32 + "-" + "b" * 16 + "-01", [], ARGUMENTS]
    rule = ["caveat 2 (acme/worker)", "amount range"]
    deny = [AT, "argument_not_allowed", "orders.refund", digest, INCARNATION, 7, 12, [rule], 0, [], None]
    erasable = [SALT, [["at most 10", "20"]], "192.0.2.7", None, None, [], None]
    end = [AT, "revoked", "orders.watch", b"", INCARNATION, 8, 3, [], 41, [], None]
    counted = [AT, "counted", "", b"", "", 0, -1, [], 0, [["bad_signature", 900], ["malformed", 2]], None]
    peers = [SALT, [], None, None, None, ["192.0.2.9", "*"], None]
    gap = [AT, "gap", "", b"", "", 0, -1, [], 0, [], ["lost", 3, 40, 38, AT - 5000, AT]]
    bare = [SALT, [], None, None, None, [], None]
    watched, tokenless = [[*call, None, True] for call in (deny, [AT, "missing_token", *deny[2:7], [], 0, [], None])]
    first, plain_digest, sig = "A" * 43, hashlib.sha256(b"said").digest(), bytes(range(64))
    bound = [*FACTS[:-2], "bound", "model-1", [[first, b"", b""], ["B" * 43, plain_digest, sig]]]
    plain = b'{"call":["' + b"D" * 43 + b'",1800000000000,"' + b"N" * 22 + b'"]}'
    evident = [*allow, [plain_digest, plain, sig]]
    awaits = ["awaited", "", 0, -1, b"", -1]
    awaited, went_on = [*allow, [plain_digest, plain, sig], False, awaits], [*deny, None, True, awaits]
    done, unknown = (
        [AT, "effect", "orders.refund", b"", INCARNATION, 7, 12, [], 0, [], None, None, False, effect]
        for effect in (
            ["done", "0123456789ab-6", 200, 6, hashlib.sha256(SALT + b"answer").digest(), 31],
            ["unknown", "0123456789ab-7", 0, -1, b"", 250],
        )
    )
    lent = [*done, ["person", "c-abcdefghij234567", ["repo.read", "repo.write"], "fetched"]]
    return digests(allow, rest, person) | {
        "record-signed": record("12.3", "an allow of a call that its holder signed", 4, bound, person, evident, rest),
        "record-bound": record("12.3", "an allow by a bound token", 3, bound, person, allow, rest),
        "record-allow": record("12.3", "an allow, with its arguments", 1, FACTS, person, allow, rest),
        "record-deny": record("12.3", "a denial and what did not hold", 2, FACTS, [None, [], []], deny, erasable),
        "record-end": record("12.4", "the work that decision 41 allowed was ended", 42, FACTS, person, end, bare),
        "record-counted": record("12.2", "unproven refusals", 70_000, STRANGER, [None, [], []], counted, peers),
        "record-watched": record("12.7", "went on", 3, FACTS, [None, [], []], watched, [*erasable, None], 2),
        "record-watched-group": record(
            "12.7", "no token, by its group", 4, STRANGER, [None, [], []], tokenless, [*rest, "app-7"], 2
        ),
        "record-watched-counted": record(
            "12.7", "counted apart", 5, STRANGER, [None, [], []], [*counted, None, True], [*peers, None], 2
        ),
        "record-awaited": record(
            "12.8", "an allow whose effect is awaited", 6, bound, person, awaited, with_external_id(rest), 3
        ),
        "record-awaited-watched": record(
            "12.8",
            "went on, and its effect is awaited",
            7,
            FACTS,
            [None, [], []],
            went_on,
            with_external_id(erasable),
            3,
        ),
        "record-effect-done": record(
            "12.8", "what an answer showed", 8, FACTS, person, done, with_external_id(bare, "re_7"), 3
        ),
        "record-effect-unknown": record(
            "12.8", "the call was ended", 9, FACTS, person, unknown, with_external_id(bare), 3
        ),
        "record-effect-person": record(
            "12.9", "with a person's account", 10, FACTS, person, lent, [*with_external_id(bare, "re_7"), "ann-t"], 3
        ),
        **marked(evident, went_on, done, lent, bound, person, rest, bare),
        **boxed(allow, deny, done, person, rest, erasable, bare),
        "record-gap": record("12.4", "a file was deleted", 41, STRANGER, [None, [], []], gap, bare),
    }


def with_external_id(rest: list[Any], external_id: str | None = None) -> list[Any]:
    """The erasable part in version 3."""
    return [*rest, None, external_id]


def marked(*parts: Any) -> dict[str, dict[str, Any]]:
    """SPEC 12.10: records with marks, of each of the other versions."""
    evident, went_on, done, lent, bound, person, rest, bare = parts
    nobody, refused = [None, [], []], [SALT, [["at most 10", "20"]], *bare[2:]]
    calls = {
        "allow": ("an allow that has set two marks", FACTS, person, [*evident[:11], None, False, None], rest),
        "signed": ("and its holder signed it", bound, person, [*evident, False, None], rest),
        "watched": ("went on, and has set its marks", FACTS, nobody, went_on, refused),
        "effect": ("what an effect proves", FACTS, person, done, bare),
        "person": ("with a person's account", FACTS, person, lent[:-1], bare),
    }
    found = {}
    for number, (name, (why, facts, about, call, its)) in enumerate(calls.items(), 11):
        credential, account = (lent[-1], "ann-t") if name == "person" else (None, None)
        whole = [*call, credential, ["untrusted", "private"] if name != "effect" else ["saved"]]
        made = record("12.10", why, number, facts, about, whole, [*its, None, None, account], 4)
        found[f"record-marks-{name}"] = made
    return found


def boxed(*parts: Any) -> dict[str, dict[str, Any]]:
    """SPEC 12.11: records with a box, of a decision, of one with marks and of an effect."""
    allow, deny, done, person, rest, erasable, bare = parts
    none: list[Any] = [None, False, None, None]
    calls = {
        "allow": ("an allow, its client states no box", [*allow, *none, [], "none"], rest),
        "deny": ("a denial that has set a mark, from a box", [*deny, *none, ["untrusted"], "bubblewrap"], erasable),
        "effect": ("an effect, its client states no box", [*done, None, [], "none"], bare),
    }
    return {
        f"record-box-{name}": record("12.11", why, number, FACTS, person, call, [*its, None, None, None], 4)
        for number, (name, (why, call, its)) in enumerate(calls.items(), 16)
    }


def digests(allow: list[Any], rest: list[Any], person: list[Any]) -> dict[str, dict[str, Any]]:
    """SPEC 12.5: the digest of arguments that RFC 8785 writes in another form than they came in."""
    cases: dict[str, tuple[dict[str, Any], str]] = {
        "numbers": ({"x": [5.0, -0.0, 19.5, 1e-7, 100.0, 1.5e-10]}, "numbers as ECMAScript writes them"),
        "order": ({"b": 1, "\ue000": 2, "\U0001f600": 3, "a": {"10": 1, "9": 2}}, "members in the order of UTF-16"),
        "texts": ({"x": 'é\u001f"/\u2028', "é": None, "nested": [{"d": True, "c": []}]}, "escapes, and null"),
    }
    found = {}
    for number, (name, (args, why)) in enumerate(cases.items(), 5):
        form = second.jcs(args)
        called = [*allow[:3], hashlib.sha256(SALT + form).digest(), *allow[4:]]
        made = record("12.5", why, number, FACTS, person, called, [*rest[:-1], form])
        found[f"record-digest-{name}"] = made | {"args": args}
    return found


def record(
    spec: str, comment: str, sequence: int, facts: Any, person: Any, call: Any, rest: Any, version: int = 1
) -> dict[str, Any]:
    """One vector."""
    body = msgpack.packb([person, rest])
    kept = msgpack.packb([version, "orders-1", "0123456789ab", sequence, facts, call, hashlib.sha256(body).digest()])
    return {
        "comment": comment,
        "spec": spec,
        "verifier": "orders-1",
        "boot": "0123456789ab",
        "sequence": sequence,
        "journal": msgpack.packb([version, facts, person, [call, rest]]).hex(),
        "kept": kept.hex(),
        "body": body.hex(),
        "leaf_hash": hashlib.sha256(b"\0" + kept).hexdigest(),
    }
