# SPDX-License-Identifier: Apache-2.0
"""The families of vectors and the levels of conformance: what an implementation is asked, and which answer is right.

No code of ``arx_verifier`` is used here, so that an
implementation under test cannot change its own judge.
"""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

FOLDER: Final = Path(__file__).parent
ABOVE_BEARER: Final = ("bound", "budgets", "limits", "marks", "memory")
LEVELS: Final = ("holder", "bearer", *ABOVE_BEARER)
_SEALED: Final = ("kept", "body")  # the answer of a record; a log makes `leaf_hash` of it
_OF_BOUND: Final = ("holder", "aud_key", "vouched")  # members of an identifier: SPEC 16.1, 16.2
# Each family and the level that its vectors need at least.  The log (LOG 1) is no verifier's: `log/` is no family.
FAMILIES: Final = {
    "tokens": "bearer",
    "requests": "bearer",
    "records": "bearer",
    "journal": "bearer",
    "memory": "memory",
    "epochs": "bearer",
    "problems": "bearer",
    "json": "bearer",
    "signing": "holder",
}
# The code with which a verifier refuses what needs a level that it does not have.
REFUSALS: Final = {"bound": "malformed", "budgets": "budget_unsupported", "marks": "unknown_caveat"}


class Vector(NamedTuple):
    """One vector.

    Attributes:
        family: Its folder.
        name: Its file's name without ``.json``.
        levels: The levels that an implementation needs to answer it, the lowest first.
        input: What the implementation is asked.
        answer: The right answer: one of ``code`` and ``output``.
        about: The section that it tests, and why the answer is right.
    """

    family: str
    name: str
    levels: tuple[str, ...]
    input: dict[str, Any]
    answer: dict[str, Any]
    about: str = ""

    @property
    def path(self) -> str:
        """The vector's name with its family, such as ``tokens/aud-other``."""
        return f"{self.family}/{self.name}"

    def question(self) -> dict[str, Any]:
        """Return the line that asks an implementation."""
        return {"family": self.family, "name": self.name, "levels": [*self.levels], "input": self.input}


def load() -> Iterator[Vector]:
    """Yield every vector of every family, in the order of their names."""
    for family in FAMILIES:
        for path in sorted((FOLDER / family).glob("*.json")):
            given = json.loads(path.read_bytes())
            answer = _answer_of(family, given)
            answers = (*_SEALED, "leaf_hash") if family == "records" else ("expect",)
            asked = {name: value for name, value in given.items() if name not in ("comment", "spec", *answers)}
            about = f"SPEC {given['spec']}, {given['comment']}"
            yield Vector(family, path.stem, _levels_of(family, given), asked, answer, about)


def judge(vector: Vector, answer: dict[str, Any]) -> str | None:
    """Return why an answer is wrong, or None if it is right.

    Args:
        vector: What was asked.
        answer: The members of the answer; ``unsupported`` names a level that the implementation does not have.
    """
    given = {name: value for name, value in answer.items() if name not in ("family", "name")}
    if "unsupported" not in given:
        return None if same(given, vector.answer) else f"expected {_shown(vector.answer)}, got {_shown(given)}"
    level = given.pop("unsupported")
    if level not in vector.levels:
        return f"`unsupported` must be one of the vector's levels, {', '.join(vector.levels)}; got {_shown(level)}"
    # A verifier without the level must still refuse the token, so the refusal is asked for.
    if vector.family != "tokens" or level not in REFUSALS:
        return None if not given else f"an unsupported vector has no answer, got {_shown(given)}"
    refusals = [{"code": code} for code in (REFUSALS[level], vector.answer["code"]) if code != "grant"]
    if any(same(given, refusal) for refusal in refusals):
        return None
    return f"unsupported, so expected {' or '.join(map(_shown, refusals))}, got {_shown(given)}"


def same(one: Any, other: Any) -> bool:
    """Return whether two values are the same JSON: 5.0 is 5, 1 is not true, and members have no order."""
    return json.dumps(_plain(one), sort_keys=True) == json.dumps(_plain(other), sort_keys=True)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _answer_of(family: str, given: dict[str, Any]) -> dict[str, Any]:
    if family == "records":
        return {"output": {name: given[name] for name in _SEALED}}
    expected = given["expect"]
    return {"code": expected} if isinstance(expected, str) else {"output": expected}


def _levels_of(family: str, given: dict[str, Any]) -> tuple[str, ...]:
    own = FAMILIES[family]
    if own == "holder":
        return (own,)
    named = _identifier_of(given.get("token"))
    needed = {
        "bearer": True,
        "bound": any(f'"{name}":'.encode() in named for name in _OF_BOUND),
        "budgets": "costs" in given or "budget" in given.get("refusal", ()),
        "limits": "limits" in given,
        "marks": "calls" in given,
        "memory": own == "memory",
    }
    return tuple(level for level, needs in needed.items() if needs)


def _identifier_of(token: Any) -> bytes:
    """Return the identifier of a token, however wrong the rest of the token is; empty if it has none."""
    text = str(token).partition("~")[0].removeprefix("arx1_")
    try:
        raw = base64.urlsafe_b64decode(text[: len(text) // 4 * 4])
    except ValueError:
        return b""
    return raw[raw.find(b"{") :].partition(b"}")[0]


def _shown(value: Any) -> str:
    text = json.dumps(value, sort_keys=True)
    return text if len(text) <= 200 else f"{text[:200]}…"
