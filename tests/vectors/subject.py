# SPDX-License-Identifier: Apache-2.0
"""Our verifier as a subject of the vectors: it answers each question by the functions of ``arx_verifier``.

``failed_vectors`` asks it without a process between: of the ``arx_verifier`` that is first on the path, in seconds.
``python -m tests.vectors.subject`` answers lines of JSON.
"""

import contextlib
import hashlib
import json
import logging
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

from arx_verifier.enforcement.base.routes import RouteMap
from arx_verifier.errors import AuditError, RequestError
from arx_verifier.journal.decision import InMemoryDecisions, unpack
from arx_verifier.journal.quota import finish_stale
from arx_verifier.journal.reader import Damage, SegmentReader
from arx_verifier.journal.record import EffectRecord, form_of, keep_arguments, seal
from arx_verifier.journal.segment import HEADER_BYTES, is_closed, is_last, read_header
from arx_verifier.ledger.memory import MemoryLedger
from arx_verifier.memory.memory import Memory
from arx_verifier.memory.stamp import MemoryKeys
from arx_verifier.request import UNSEEN_BODY, AccessRequest, HttpCall
from arx_verifier.revocation.epoch import FOREVER_NS, EpochTable, Lease
from arx_verifier.token.keyring import KeyRing
from arx_verifier.verification.nonces import MemoryNonces
from arx_verifier.verification.verifier import Verifier
from tests.vectors import subject_families
from tests.vectors.families import judge, load

AT: Final = 1_800_000_000_000  # the time of the vectors' service, ms
Answer = dict[str, Any]


def verifier_of(vector: dict[str, Any]) -> Verifier:
    """Return the verifier that a vector of a token describes."""
    ledger = None
    if "costs" in vector:
        ledger = MemoryLedger(clock=lambda: AT)
        ledger.since = AT - 60_001
    return Verifier(
        audience=vector["audience"],
        keys=KeyRing(_keys_of(vector), realm=vector["realm"], max_ttl_ms=vector["max_ttl_ms"]),
        epochs=_view_of(**vector["epoch"]),
        decisions=InMemoryDecisions(clock=lambda: AT),
        nonces=MemoryNonces(now_ms=AT - 60_000),
        ledger=ledger,
        costs=vector.get("costs"),
        limits=vector.get("limits"),
    )


def request_of(vector: dict[str, Any]) -> AccessRequest:
    """Return the request that a vector of a token describes."""
    asked = dict(vector["request"])
    http = asked.pop("http", None)
    if http is not None:
        body = UNSEEN_BODY if http["body"] is None else hashlib.sha256(http["body"].encode()).digest()
        http = HttpCall(http["method"], http["target"].encode(), body)
    return AccessRequest(**asked, http=http)


def call_before(verifier: Verifier, vector: dict[str, Any]) -> None:
    """Make the calls that came before a vector's own, whatever comes of them, with what their service did then."""
    for call in vector.get("calls", ()):
        at = call.get("at", vector["request"]["at"])
        if "at" in call:  # the ledger's clock is there from this call on
            verifier._budgets.ledger._clock = lambda at=at: at
        decision = verifier.decide(call.get("token", vector["token"]), AccessRequest(call["tool"], call["args"], at))
        if "mark" in call:
            with contextlib.suppress(ValueError):  # an error of the program, which goes on
                decision.grant.mark(call["mark"])
        if "effect" in call:
            verifier.record_effect(decision, EffectRecord(call["effect"]))


def present_before(verifier: Verifier, vector: dict[str, Any], request: AccessRequest) -> None:
    """Make the call of a vector with each of the tokens that its verifier saw before; each is granted."""
    for token in vector.get("before", ()):
        decision = verifier.decide(token, request)
        if not decision.allowed:
            raise AssertionError(f"expected a grant of a token before, got {decision.code}")


def decide(vector: dict[str, Any]) -> Answer:
    """Return the outcome of the last of a vector's calls."""
    verifier, request = verifier_of(vector), request_of(vector)
    present_before(verifier, vector, request)
    call_before(verifier, vector)
    decisions = [verifier.decide(vector["token"], request) for _ in range(vector["times"])]
    return {"code": "grant" if decisions[-1].allowed else decisions[-1].code}


def arguments_of(vector: dict[str, Any]) -> Answer:
    """Return the arguments of a vector's request, or the reason code of its refusal."""
    raw, _, query = vector["target"].partition("?")
    scope = {"type": "http", "method": vector["route"].partition(" ")[0], "path": unquote(raw)}
    scope |= {"raw_path": raw.encode(), "query_string": query.encode(), "headers": []}
    try:
        mapped = RouteMap({vector["route"]: "orders.refund"})(scope, b"")
    except RequestError as error:
        return {"code": error.code}
    return {"output": None if mapped is None else mapped[1]}


def seal_record(vector: dict[str, Any]) -> Answer:
    """Return both parts of the record that a vector's journal has, in hex."""
    decision = unpack(bytes.fromhex(vector["journal"]))
    if "args" in vector:
        decision.arguments = keep_arguments(vector["args"])
        decision.args_digest = hashlib.sha256(decision.salt + form_of(vector["args"])).digest()
    kept, body = seal(decision.pack(), vector["verifier"], vector["boot"], vector["sequence"])
    return {"output": {"kept": kept.hex(), "body": body.hex()}}


def segment_in(path: Path) -> dict[str, Any]:
    """Return what a journal's reader finds in a segment of a dead writer."""
    start, damages = path.read_bytes()[:HEADER_BYTES], list[Damage]()
    try:
        header = read_header(start)
    except AuditError:
        return {"header": None, "state": None, "records": [], "damage": [0]}
    read = [
        [sequence, payload.hex() or None]
        for sequence, payload in SegmentReader(path, header, damages.append).payloads()
    ]
    state = "ended" if is_last(start) else "closed" if is_closed(start) else "open"
    about = {name: getattr(header, name) for name in header.__struct_fields__}
    return {"header": about, "state": state, "records": read, "damage": [damage.offset for damage in damages]}


def read_segment(vector: dict[str, Any]) -> Answer:
    """Return what is in a vector's segment, and where a verifier that starts in its folder ends it."""
    raw = bytes.fromhex(vector["file"]) + bytes(vector["zeros"])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "0.arxj"
        path.write_bytes(raw)
        found = segment_in(path)
        finish_stale(Path(folder))
        whole = path.read_bytes()
    end = None if whole == raw else len(whole)
    if end is not None and whole != raw[:8] + b"\1" + raw[9:end]:
        raise ValueError("more than state and end of the segment was changed")
    return {"output": found | {"end": end}}


def memory_of(vector: dict[str, Any]) -> Memory:
    """Return the memory service that a vector of a stamp describes."""
    view = _view_of(vector["incarnation"], vector["applied"], {}, vector["freezes"])
    memory = Memory(MemoryKeys(_keys_of(vector)), view)
    if vector["seen"]:
        memory._complete = vector["incarnation"]
    return memory


def check_stamp(vector: dict[str, Any]) -> Answer:
    """Return the result of a vector's entry, with the target of its taint."""
    verdict = memory_of(vector).check(vector["stamp"], vector["content"])
    return {"code": " ".join(filter(None, verdict[:2]))}


ANSWERS: Final[dict[str, Callable[[dict[str, Any]], Answer]]] = {
    "tokens": decide,
    "requests": arguments_of,
    "records": seal_record,
    "journal": read_segment,
    "memory": check_stamp,
    "epochs": subject_families.follow,
    "problems": subject_families.answer_refusal,
    "json": subject_families.read_body,
    "signing": subject_families.write_text,
}


def failed_vectors() -> dict[str, str]:
    """Ask every vector in this process.

    An exception is a wrong answer.  The parts that C has are only asked of the Python code with ``ARX_PURE=1``.

    Returns:
        By name, such as ``tokens/aud-other``, why the answer was wrong; empty if all were right.
    """
    failed = {}
    for vector in load():
        try:
            why = judge(vector, ANSWERS[vector.family](vector.input))
        except Exception as error:
            why = f"raised {type(error).__name__}: {error}"
        if why is not None:
            failed[vector.path] = why
    return failed


def _keys_of(vector: dict[str, Any]) -> dict[str, bytes]:
    return {kid: bytes.fromhex(key) for kid, key in vector["keys"].items()}


def _view_of(
    incarnation: str, applied: int, kills: dict[str, int], freezes: dict[str, int], age_ms: int | None = None
) -> EpochTable:
    epochs = EpochTable()
    epochs.adopt(incarnation, applied, kills, freezes)
    sent = FOREVER_NS if age_ms is None else epochs.boot_ns() - age_ms * 1_000_000
    if not epochs.renew(incarnation, applied, Lease(FOREVER_NS, FOREVER_NS, sent)):
        raise AssertionError("the view of a vector has a lease")
    return epochs


def main() -> None:
    """Answer each line of the standard input by one line, until the input ends."""
    logging.disable()  # the vectors bring about what an operator must know
    for line in sys.stdin:
        question = json.loads(line)
        named = {"family": question["family"], "name": question["name"]}
        print(json.dumps(named | ANSWERS[question["family"]](question["input"])), flush=True)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
