# SPDX-License-Identifier: Apache-2.0
"""Our verifier as a subject of the families ``epochs``, ``problems``, ``json`` and ``signing``; see ``subject``."""

import hashlib
import json
import re
from typing import Any, Final

import msgspec

from arx_verifier.enforcement.base import problems
from arx_verifier.errors import Failure, RequestError, Shortfall
from arx_verifier.request import UNSEEN_BODY, AccessRequest, HttpCall, read_json_object
from arx_verifier.revocation.follower_core import Following
from arx_verifier.revocation.store_link import EpochEntry, FeedError, StoreAnswer
from arx_verifier.token import call_proof, discharge
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.holder import HolderKey
from arx_verifier.token.macaroon import Macaroon

MS: Final = 1_000_000  # ns
_CHALLENGE: Final = re.compile(r'Bearer realm="([^"]*)"(?:, error="(\w+)", error_description="[^"]+")?')


class _World:
    """A view with clocks that a script sets."""

    def __init__(self) -> None:
        self.boot = self.wall = 0
        self.view = Following(boot=lambda: self.boot, wall=lambda: self.wall)

    def step(self, step: dict[str, Any]) -> Any:
        """Return what comes of a step."""
        self.boot, self.wall = step["boot"] * MS, step["wall"] * MS
        try:
            return getattr(self, step["do"])(step)
        except FeedError:
            self.view.begin()  # the connection is dropped, and another one opened
            return "dropped"

    def connect(self, step: dict[str, Any]) -> None:
        """Begin a new connection."""
        self.view.several = step.get("several", False)
        self.view.begin()

    def close(self, _: dict[str, Any]) -> None:
        """Close the view."""
        self.view.close()

    def probe(self, _: dict[str, Any]) -> list[Any]:
        """Return the place in the probe that is sent."""
        question = self.view.ask()
        if question is None:
            raise AssertionError("no probe is due")
        return [*question.place]

    def answer(self, step: dict[str, Any]) -> str:
        """Take an answer."""
        made = dict(step["answer"])
        copies = {"k": made.pop("kills", {}), "f": made.pop("freezes", {})}
        entries = tuple([EpochEntry(*entry) for entry in made.pop("entries")])
        self.view.take_answer(StoreAnswer(at_ms=made.pop("at"), entries=entries, **made), copies.__getitem__)
        return "taken"

    def push(self, step: dict[str, Any]) -> str:
        """Take a pushed entry."""
        self.view.take_push(EpochEntry(*step["entry"]))
        return "taken"

    def check(self, step: dict[str, Any]) -> str:
        """Check a token."""
        token = step["token"]
        after = 0 if token["fresh"] is None else self.boot - token["fresh"] * MS
        refused = self.view.check(token["incarnation"], token["born"], token["targets"], after)
        return "ok" if refused is None else refused.code


def follow(vector: dict[str, Any]) -> dict[str, Any]:
    """Return what comes of each step of a script."""
    world = _World()
    return {"output": {"steps": [world.step(step) for step in vector["script"]]}}


def answer_refusal(vector: dict[str, Any]) -> dict[str, Any]:
    """Return status, headers and body of a refusal; the sentences for people are left out."""
    refusal = vector["refusal"]
    failures = [Failure(*map(failure.get, Failure._fields)) for failure in refusal["failures"]]
    if "budget" in refusal:
        failures[:1] = [_shortfall(failures[0], refusal["budget"])]
    made = problems.answer(refusal["code"], realm=vector["realm"], failures=failures, decision=vector["decision"])
    headers: dict[str, Any] = {name.decode(): value.decode() for name, value in made.headers}
    body = json.loads(made.body)
    if int(headers.pop("content-length")) != len(made.body) or not body.pop("detail"):
        raise AssertionError("another length, or no sentence")
    del headers["x-content-type-options"]  # of browsers; SPEC 13 does not ask for it
    if "www-authenticate" in headers:
        found = _CHALLENGE.fullmatch(headers["www-authenticate"])
        named = zip(("realm", "error"), found.groups() if found else (), strict=False)
        headers["www-authenticate"] = {name: value for name, value in named if value is not None}
    return {"output": {"status": made.status, "headers": headers, "body": body}}


def read_body(vector: dict[str, Any]) -> dict[str, Any]:
    """Return the arguments of a JSON body, or the reason code of its refusal."""
    try:
        return {"output": read_json_object(bytes.fromhex(vector["body"]))}
    except RequestError as error:
        return {"code": error.code}


def write_text(vector: dict[str, Any]) -> dict[str, Any]:
    """Return the text that a holder sends, or passes on."""
    task = Macaroon.parse(vector["task"])
    if "call" in vector:
        return {"output": {"text": _call(task, **vector["call"])}}
    if "attenuate" in vector:
        return {"output": {"text": task.attenuate(_caveat(vector["attenuate"])).encode()}}
    asked = vector["delegate"]
    by = HolderKey(bytes.fromhex(asked["holder"])) if asked["holder"] else None
    hop, caveat = call_proof.wire.bytes_of(asked["hop"]), asked["caveat"]
    made = task.delegate(asked["to"], _caveat(caveat) if caveat else None, hop=hop, key=asked["key"], by=by)
    return {"output": {"text": made.encode()}}


def _call(
    task: Macaroon,
    *,
    audience: str,
    holder: str | None,
    signs: bool,
    request: dict[str, Any],
    at: int,
    nonce: str,
    discharges: list[str],
) -> str:
    key = HolderKey(bytes.fromhex(holder)) if holder else None
    http = request.get("http")
    if http is not None:
        body = UNSEEN_BODY if http["body"] is None else hashlib.sha256(http["body"].encode()).digest()
        http = HttpCall(http["method"], http["target"].encode(), body)
    fields = call_proof.fields_of(AccessRequest(request["tool"], request["args"], at, http=http))
    text = call_proof.CallSigner(task, audience, key, signs=signs).sign(fields, at, bytes.fromhex(nonce))
    return discharge.join(text, [discharge.bind(Macaroon.parse(made), task) for made in discharges])


def _caveat(members: dict[str, Any]) -> Caveat:
    return msgspec.convert(members, Caveat)


def _shortfall(failure: Failure, budget: dict[str, str]) -> Shortfall:
    made = Shortfall(*failure)
    for name, text in budget.items():
        setattr(made, name, text)
    return made
