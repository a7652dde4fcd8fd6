# SPDX-License-Identifier: Apache-2.0
"""Recorded calls: of the log, of journals, and of a file that any proxy can write.  SPEC 12.

One call is one JSON object on a line.  ``agent`` and ``tool`` are needed; ``args``, ``session``, ``task``, ``purpose``,
``audience``, ``outcome``, ``at``, ``named`` and ``group`` may be missing, and other members are ignored.  A record of
``arx audit export`` or ``arx decisions --jsonl`` is such an object; its ``arguments`` are a text.
"""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

from arx_caps.settings.durations import show_time
from arx_verifier import names
from arx_verifier.errors import RequestError, SettingsError, shorten
from arx_verifier.request import read_json_object

DRAWN: Final = frozenset(("allow", "would_refuse"))  # a call that was refused must not write the policy
CODE: Final = "calls"
MINT: Final = "arx.mint"
CALLERS: Final = "callers"  # the first segment of callers without a token; the operator writes the agents' paths
_ODD: Final = re.compile(r"[^a-z0-9._-]+")


class RecordedCall(NamedTuple):
    """One call that was made.

    Attributes:
        agent: The path of the agent that the session is of.
        tool: The tool.
        audience: The service.
        session: The session; without one, the UTC day of the call.
        task: The task, or empty.
        purpose: The session's purpose, or empty.
        args: The arguments; None if they were not recorded.
        at: Its time, ms since the Unix epoch; 0 if it is unknown.
        named: The agents to which the task was delegated, in order.
    """

    agent: str
    tool: str
    audience: str
    session: str
    task: str = ""
    purpose: str = ""
    args: Mapping[str, Any] | None = None
    at: int = 0
    named: tuple[str, ...] = ()

    @property
    def work(self) -> tuple[str, str, str]:
        """The piece of work in which a task's parameters are constant: the task, else the session."""
        return self.agent, self.session, self.task


def read_calls(records: Iterable[Mapping[str, Any]], purposes: Mapping[str, str] | None = None) -> list[RecordedCall]:
    """Return the calls of records that were allowed, or would have been refused; others are left out.

    Args:
        records: Objects of this module's form.
        purposes: The purposes of sessions by id, which the records lack.

    Raises:
        SettingsError: A member is missing or of another type.
    """
    # Calls of the mint itself are in the log as well; no policy grants them, and no audience begins with its name.
    taken = [
        each
        for each in records
        if "tool" in each and each.get("outcome", "allow") in DRAWN and each.get("audience") != MINT
    ]
    return [_read(each, purposes or {}) for each in taken]


def load_calls(path: Path) -> list[RecordedCall]:
    """Return the calls of a file, one JSON object on each line, as ``read_calls`` does.

    Raises:
        SettingsError: The file cannot be read, or a line is no such object, with its number.
    """
    calls: list[RecordedCall] = []
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise SettingsError(f"{path}: {error.strerror}", code=CODE) from error
    for number, line in enumerate(lines, 1):
        try:
            calls += read_calls([read_json_object(line)] if line.strip() else [])
        except (RequestError, SettingsError) as error:
            raise SettingsError(f"{path}:{number}: {error}", code=CODE) from error
    return calls


def _read(record: Mapping[str, Any], purposes: Mapping[str, str]) -> RecordedCall:
    agent, tool, at = record.get("agent") or _caller(record), record["tool"], record.get("at") or 0
    if not names.is_agent_path(agent):
        raise _wrong("agent", "an agent's path such as acme/support/triage", agent)
    if not names.is_tool(tool):
        raise _wrong("tool", "a tool's name such as orders.get", tool)
    if type(at) is not int:
        raise _wrong("at", "ms since 1970", at)
    texts = {name: record.get(name) or "" for name in ("session", "task", "purpose", "audience", "service")}
    for name, text in texts.items():
        if type(text) is not str:
            raise _wrong(name, "text", text)
    named = record.get("named") or ()
    if not (isinstance(named, list | tuple) and all(map(names.is_agent_path, named))):
        raise _wrong("named", "a list of agents' paths", named)
    audience = texts["audience"] or texts["service"] or tool.partition(".")[0]
    if not names.is_audience(audience):
        raise _wrong("audience", "the name of a service such as orders", audience)
    return RecordedCall(
        agent=agent,
        tool=tool,
        audience=audience,
        session=texts["session"] or show_time(at)[:10],
        task=texts["task"],
        purpose=texts["purpose"] or purposes.get(texts["session"], ""),
        args=_read_args(record),
        at=at,
        named=tuple(named),
    )


def _caller(record: Mapping[str, Any]) -> str:
    """Return a path for a caller without a token, by the group that a service that watches has recorded."""
    return (
        f"{CALLERS}/{_ODD.sub('-', str(record['group']).lower()).strip('-')[:48] or 'unknown'}"
        if "group" in record
        else ""
    )


def _read_args(record: Mapping[str, Any]) -> Mapping[str, Any] | None:
    args = record.get("args", record.get("arguments"))
    if type(args) is str:
        args = read_json_object(args.encode()) if args else None  # empty: longer than a record keeps
    if args is not None and type(args) is not dict:
        raise _wrong("args", "an object", args)
    return args


def _wrong(name: str, expected: str, got: Any) -> SettingsError:
    return SettingsError(f"{name}: expected {expected}, got {shorten(got)}", code=CODE)


def key_of(value: Any) -> str:
    """Return a text that is the same for the same JSON value alone."""
    return json.dumps(value, sort_keys=True)
