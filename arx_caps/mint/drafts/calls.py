# SPDX-License-Identifier: Apache-2.0
"""Recorded calls: of the log, of journals, and of a file that any proxy can write.  SPEC 12.

One call is one JSON object on a line, with the members of ``RecordedCall``; other members are ignored.  A record of
``arx audit export`` or ``arx decisions --jsonl`` is one, with its ``arguments`` as a text, and an ``outcome``.
"""

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec

from arx_caps.settings.durations import show_time
from arx_verifier import names
from arx_verifier.errors import RequestError, SettingsError
from arx_verifier.request import read_json_object

DRAWN: Final = frozenset(("allow", "would_refuse"))  # a call that was refused must not write the policy
CODE: Final = "calls"
MINT: Final = "arx.mint"
CALLERS: Final = "callers"  # the first segment of callers without a token; the operator writes the agents' paths
_NAMES: Final = (
    ("agent", names.is_agent_path, "acme/support/triage"),
    ("tool", names.is_tool, "orders.get"),
    ("audience", names.is_audience, "orders"),
)
_ODD: Final = re.compile(r"[^a-z0-9._-]+")


class RecordedCall(msgspec.Struct, frozen=True, kw_only=True):
    """One call that was made.

    Attributes:
        agent: The path of the agent that the session is of.
        tool: The tool.
        audience: The service; without one, what the tool begins with.
        session: The session; without one, the UTC day of the call.
        task: The task, or empty.
        purpose: The session's purpose, or empty.
        args: The arguments; None if they were not recorded.
        at: Its time, ms since the Unix epoch; 0 if it is unknown.
        named: The agents to which the task was delegated, in order.
        is_part: Whether a record lacks arguments of the call, as their names look like those of secrets.
    """

    agent: str
    tool: str
    audience: str = ""
    session: str = ""
    task: str = ""
    purpose: str = ""
    args: dict[str, Any] | None = None
    at: Annotated[int, msgspec.Meta(ge=0)] = 0
    named: tuple[str, ...] = ()
    is_part: bool = False

    def __post_init__(self) -> None:
        for name, is_one, example in _NAMES:
            if not is_one(value := getattr(self, name)):
                raise ValueError(f"{name}: expected one such as {example}, got {value!r:.60}")

    @property
    def work(self) -> tuple[str, str, str]:
        """The piece of work in which a task's parameters are constant: the task, else the session."""
        return self.agent, self.session, self.task


def read_calls(records: Iterable[Mapping[str, Any]], purposes: Mapping[str, str]) -> Iterator[RecordedCall]:
    """Yield the calls of records that were allowed, or would have been refused; other records are left out.

    Args:
        records: Records of the mint's log.
        purposes: The purposes of sessions by id, which the records lack.
    """
    for record in records:
        # A caller chooses the name of a tool that no service has: no policy can have each, so none may stop a draft.
        with suppress(msgspec.ValidationError, RequestError):
            if (call := _read(record, purposes)) is not None:
                yield call


def load_calls(path: Path) -> list[RecordedCall]:
    """Return the calls of a file, one JSON object on each line; those that ``read_calls`` leaves out are left out.

    Raises:
        SettingsError: The file cannot be read, or a line is no such object, with its number.
    """
    calls = []
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}", code=CODE) from error
    for number, line in enumerate(lines, 1):
        try:
            calls.append(_read(read_json_object(line), {}) if line.strip() else None)
        except (RequestError, msgspec.ValidationError) as error:
            raise SettingsError(f"{path}:{number}: {error}", code=CODE) from error
    return [call for call in calls if call is not None]


def key_of(value: Any) -> str:
    """Return a text that is the same for the same JSON value alone."""
    return json.dumps(value, sort_keys=True)


def _read(record: Mapping[str, Any], purposes: Mapping[str, str]) -> RecordedCall | None:
    # Events, and calls of the mint itself, are in the log as well: no policy grants these.
    is_call = record.get("type", "decision") == "decision" and record.get("audience") != MINT
    if not is_call or record.get("outcome", "allow") not in DRAWN:
        return None
    known = {name: value for name, value in record.items() if value not in (None, "")}
    if type(text := known.get("arguments")) is str:  # absent where it was longer than a record keeps
        known["args"] = read_json_object(text.encode())
        digest = hashlib.sha256(bytes.fromhex(str(known.get("salt", ""))) + text.encode()).hexdigest()
        known["is_part"] = known.get("args_digest", digest) != digest
    if "agent" not in known and "group" in record:  # a caller without a token, before a service that watches
        group = str(known.get("group", ""))[:48].lower()
        known["agent"] = f"{CALLERS}/{_ODD.sub('-', group).strip('-._') or 'unknown'}"
    known.setdefault("audience", known.get("service") or str(known.get("tool")).partition(".")[0])
    known.setdefault("purpose", purposes.get(str(known.get("session")), ""))
    if type(at := known.get("at", 0)) is int:
        known.setdefault("session", show_time(at)[:10])
    return msgspec.convert(known, RecordedCall)
