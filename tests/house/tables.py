# SPDX-License-Identifier: Apache-2.0
"""Write the tables of the pages that say what code says: ``python -m tests.house.tables``.

A table is between ``<!-- table: NAME -->`` and ``<!-- end of table -->``.  The texts come from docstrings, the rows of
``REASONS`` and the comments at constants, so that a new member, code or limit changes no page by hand.  The rooms are
those of the package graph.
"""

import importlib
import inspect
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Final, NamedTuple

import arx_caps.service
import arx_verifier.testing
from arx_caps.http.metric_families import PROCESSES
from arx_caps.mint.policy.tables import Template
from arx_caps.settings.durations import UNITS, format_duration
from arx_verifier.constraints.constraint import Constraint
from arx_verifier.errors import REASONS
from arx_verifier.token.caveats import Caveat
from tests.house.doors import exports_of
from tests.house.map import ROOMS, answers, rooms
from tests.house.monitoring import files, metrics, runbook
from tests.house.pages import ROOT

_TABLE: Final = re.compile(r"(?<=<!-- table: )(\w+)( -->\n).*?(?=<!-- end of table -->)", re.DOTALL)


def attributes(kind: type) -> dict[str, str]:
    """Return the texts of ``Attributes:`` in a class's docstring, by attribute."""
    part = (inspect.getdoc(kind) or "").partition("\nAttributes:\n")[2].partition("\n\n")[0]
    found = re.findall(r"^    (\w+): (.*(?:\n     +.*)*)", part, re.MULTILINE)
    return {name: " ".join(text.split()).rstrip(".").replace("``", "`") for name, text in found}


def members(kind: type, *head: str) -> Iterator[str]:
    """Yield the head, and a row for each member of a struct but its name, as a file or a token writes it."""
    yield from (f"| {' | '.join(head)} |", "| --- | --- |")
    answer = attributes(kind)
    for field, written in zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True):  # type: ignore[attr-defined]
        if field != "name":
            yield f"| `{written}` | {answer[field][0].lower()}{answer[field][1:]} |"


def reasons() -> Iterator[str]:
    """Yield every reason code."""
    yield from ("| code | HTTP | means | try again |", "| --- | --- | --- | --- |")
    for code, reason in REASONS.items():
        yield f"| `{code}` | {reason.status} | {reason.meaning} | {reason.retry} |"


def public_names(module: ModuleType) -> list[str]:
    """Return the names that a module exports, or the classes that it defines; no name with underscores."""
    own = {name for name, value in vars(module).items() if getattr(value, "__module__", None) == module.__name__}
    return sorted(name for name in exports_of(module) or own if not name.startswith("_"))


def names(module: ModuleType) -> Iterator[str]:
    """Yield a row for each public name of a module."""
    yield from ("| name | is |", "| --- | --- |")
    for name in public_names(module):
        summary = (inspect.getdoc(getattr(module, name)) or "").partition("\n\n")[0]
        yield f"| `{name}` | {' '.join(summary.split()).rstrip('.').replace('``', '`')} |"


class Limit(NamedTuple):
    """A limit: what it bounds, the constant that code enforces, and the section that defines it."""

    bounds: str
    module: str
    constant: str
    section: str


_UNITS: Final = ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "bytes"))
TOKEN_LIMITS: Final = (
    Limit("a credential: a token and its discharges", "arx_verifier.token.wire", "MAX_CREDENTIAL_CHARS", "SPEC 2.3"),
    Limit("caveats of a credential", "arx_verifier.token.wire", "MAX_CAVEATS", "SPEC 2.1, 6.7"),
    Limit("discharges of a credential", "arx_verifier.token.discharge", "MAX_DISCHARGES", "SPEC 2.3"),
    Limit("discharges of discharges", "arx_verifier.verification.authenticate", "MAX_DEPTH", "SPEC 6.7"),
    Limit("delegations in a token", "arx_verifier.token.macaroon", "MAX_HOPS", "SPEC 4.1"),
    Limit("a token's life, unless a realm has its own", "arx_verifier.token.keyring", "DEFAULT_MAX_TTL_MS", "SPEC 4.2"),
    Limit("`iat` ahead of a verifier's clock", "arx_verifier.token.macaroon", "IAT_AHEAD_MS", "SPEC 4.2"),
    Limit("an agent path", "arx_verifier.names", "MAX_PATH_BYTES", "SPEC 4.4"),
    Limit("segments of an agent path", "arx_verifier.names", "MAX_PATH_SEGMENTS", "SPEC 4.4"),
    Limit("a tool's name", "arx_verifier.names", "MAX_TOOL_CHARS", "SPEC 4.4"),
    Limit("version, owner, purpose of an agent", "arx_verifier.token.macaroon", "MAX_ABOUT_CHARS", "SPEC 4.1"),
    Limit("a target", "arx_verifier.token.targets", "MAX_TARGET_BYTES", "SPEC 10.1"),
    Limit("`fresh`", "arx_verifier.token.caveats", "MAX_FRESH_MS", "SPEC 6.1"),
    Limit("`once` caveats of a credential", "arx_verifier.limits", "MAX_ONCE", "SPEC 6.8"),
    Limit("age of a `once`", "arx_verifier.verification.nonces", "ONCE_MS", "SPEC 6.8"),
    Limit("time of a `once` ahead of the service", "arx_verifier.verification.nonces", "ONCE_AHEAD_MS", "SPEC 6.8"),
    Limit("a used `once` is remembered", "arx_verifier.verification.nonces", "ONCE_KEEP_MS", "SPEC 6.8"),
    Limit("id of a third-party caveat", "arx_verifier.token.discharge", "MAX_ID_CHARS", "SPEC 6.4"),
)
CALL_LIMITS: Final = (
    Limit("age of a signed call", "arx_verifier.token.call_proof", "MAX_AGE_MS", "SPEC 8.3"),
    Limit("time of a call ahead of the service", "arx_verifier.token.call_proof", "MAX_AHEAD_MS", "SPEC 8.3"),
    Limit("a used call is remembered", "arx_verifier.token.call_proof", "KEEP_MS", "SPEC 8.3"),
    Limit("… and longer in a shared store", "arx_verifier.verification.nonces", "APART_MS", "SPEC 8.3"),
    Limit("used calls in memory", "arx_verifier.verification.nonces", "MAX_NONCES", "SPEC 8.3"),
    Limit("nested arrays and objects in arguments", "arx_verifier.request", "MAX_JSON_DEPTH", "SPEC 8.2"),
    Limit("tests of a call times the size of its arguments", "arx_verifier.limits", "MAX_WORK", "SPEC 7.4"),
    Limit("tests that are never refused for that", "arx_verifier.limits", "FREE_TESTS", "SPEC 7.4"),
    Limit("items of a list for `contains` and `subset`", "arx_verifier.constraints.scalars", "_MAX_ITEMS", "SPEC 7.2"),
    Limit("items of a list for `each`", "arx_verifier.limits", "MAX_EACH", "SPEC 7.2"),
    Limit("levels of `each` and `fields`", "arx_verifier.limits", "MAX_NESTING", "SPEC 7.2"),
    Limit("a decimal", "arx_verifier.constraints.scalars", "MAX_DECIMAL_CHARS", "SPEC 3.1"),
    Limit("a URL for `url`", "arx_verifier.constraints.text", "_MAX_URL_CHARS", "SPEC 7.3"),
    Limit("failures in one refusal", "arx_verifier.constraints.rule", "MAX_TOLD", "SPEC 13"),
    Limit("body of an HTTP call", "arx_verifier.enforcement.asgi.asgi", "MAX_BODY_BYTES", ""),
    Limit("fields of a query", "arx_verifier.enforcement.base.routes", "MAX_QUERY_FIELDS", ""),
    Limit("a verifier's clock from the store's", "arx_verifier.revocation.epoch", "SKEW_MS", "SPEC 10.5"),
    Limit("a decision record", "arx_verifier.journal.record", "MAX_RECORD_BYTES", "SPEC 12.3"),
    Limit(
        "delegations' caveats in a record",
        "arx_verifier.verification.compiled_caveats",
        "MAX_CAVEAT_CHARS",
        "SPEC 12.3",
    ),
    Limit("arguments in a record", "arx_verifier.journal.record", "MAX_ARGUMENTS_BYTES", "SPEC 12.5"),
    Limit("a journal, unless the service sets another", "arx_verifier.journal.writer", "MAX_BYTES", "SPEC 15.3"),
)
MINT_LIMITS: Final = (
    Limit("body of a call to the mint", "arx_caps.mint.api.endpoint", "MAX_BODY_BYTES", "CONTROL 4.5"),
    Limit("an idempotency key", "arx_caps.mint.api.idempotency", "MAX_KEY_CHARS", "CONTROL 4.4"),
    Limit("targets of one kill", "arx_caps.mint.api.routes.operations.kills", "MAX_TARGETS", ""),
    Limit("a repeat of a client's last refresh", "arx_caps.mint.oauth.refresh", "REPEAT_MS", "CONTROL 5.9"),
    Limit("an enrolment token", "arx_caps.mint.api.routes.identity.services", "ENROLMENT_MS", "CONTROL 3.1"),
    Limit("webhooks of a realm", "arx_caps.mint.db.repositories.events.webhooks", "MAX_WEBHOOKS", "CONTROL 7.1"),
    Limit(
        "requests for approval that wait", "arx_caps.mint.db.repositories.work.approvals", "MAX_WAITING", "CONTROL 2.8"
    ),
    Limit("arguments of an approval", "arx_caps.mint.tasks.discharge", "MAX_ARGUMENT_BYTES", "CONTROL 2.8"),
    Limit("`wait` of a query of the log", "arx_caps.mint.api.routes.events.trail", "MAX_WAIT_MS", "LOG 3.3"),
    Limit("records in a batch", "arx_caps.audit.shipping.batch", "MAX_RECORDS", "LOG 2.1"),
    Limit("a batch", "arx_caps.audit.shipping.batch", "MAX_BYTES", "LOG 2.1"),
    Limit("the kept part of a record", "arx_caps.audit.shipping.batch", "MAX_KEPT", "LOG 1.3"),
)
APPROVAL_LIMITS: Final = (
    Limit("a request with a state is held", "arx_caps.gateway.access_tokens.approved_calls", "HOLD_MS", "CONTROL 5.12"),
    Limit(
        "a call without state and task is held",
        "arx_caps.gateway.access_tokens.approved_calls",
        "HOLD_FIRST_MS",
        "CONTROL 5.12",
    ),
    Limit("requests that are held", "arx_caps.gateway.access_tokens.approved_calls", "MAX_HELD", "CONTROL 5.12"),
    Limit("calls of tasks of a client", "arx_caps.gateway.access_tokens.approved_tasks", "MAX_RUNS", "CONTROL 5.12"),
    Limit(
        "calls of tasks of all clients", "arx_caps.gateway.access_tokens.approved_tasks", "MAX_ALL_RUNS", "CONTROL 5.12"
    ),
    Limit("a task is known", "arx_caps.gateway.access_tokens.approved_tasks", "KEPT_MS", "CONTROL 5.12"),
    Limit("a call that waits for an account is held, s", "arx_caps.gateway.mcp.asked_links", "HOLD_S", "CONTROL 9.6"),
    Limit("links that are watched, of an upstream", "arx_caps.gateway.mcp.asked_links", "MOST_WATCHED", "CONTROL 9.6"),
    Limit("a state or a task id", "arx_caps.gateway.base.sealed_calls", "MAX_CHARS", "CONTROL 5.12"),
)


def _value(limit: Limit) -> str:
    value: int = getattr(importlib.import_module(limit.module), limit.constant)
    if limit.constant == "MAX_WORK":
        return f"2^{value.bit_length() - 1}"
    if limit.constant.endswith("_MS"):
        whole = value - value % UNITS["d"]
        return " ".join(format_duration(part) for part in (whole, value - whole) if part)
    if limit.constant.endswith("_BYTES") or limit.constant == "MAX_KEPT":
        size, unit = next(pair for pair in _UNITS if value % pair[0] == 0)
        return f"{value // size:,} {unit}".replace(",", " ")
    return f"{value:,}{' characters' if limit.constant.endswith('_CHARS') else ''}".replace(",", " ")


def _reason(limit: Limit) -> str:
    source = inspect.getsource(importlib.import_module(limit.module))
    found = re.search(rf"^{limit.constant}: Final = .*  # (.+)$", source, re.MULTILINE)
    assert found, f"{limit.module}.{limit.constant} has no comment at its line"
    return re.sub(r" \((?:SPEC|LOG|CONTROL) [\d.]+\)$", "", found[1]).replace("``", "`")


def limits(listed: tuple[Limit, ...]) -> Iterator[str]:
    """Yield a row for each limit."""
    yield from ("| limit of | is | why | section |", "| --- | --- | --- | --- |")
    yield from (f"| {limit.bounds} | {_value(limit)} | {_reason(limit)} | {limit.section} |" for limit in listed)


TABLES: Final[dict[str, Callable[[], Iterator[str]]]] = {
    "task": partial(members, Template, "key", "says"),
    "constraints": partial(members, Constraint, "member", "the argument is"),
    "caveats": partial(members, Caveat, "member", "restricts the token"),
    "reasons": reasons,
    "token_limits": partial(limits, TOKEN_LIMITS),
    "call_limits": partial(limits, CALL_LIMITS),
    "mint_limits": partial(limits, MINT_LIMITS),
    "approval_limits": partial(limits, APPROVAL_LIMITS),
    "verifier_names": partial(names, arx_verifier),
    "testing_names": partial(names, arx_verifier.testing),
    "agent_names": partial(names, arx_caps),
    "service_names": partial(names, arx_caps.service),
    "answers": answers,
    "runbook": runbook,
    **{f"{process}_metrics": partial(metrics, process) for process in PROCESSES},
    **{f"rooms_of_{folder.name}": partial(rooms, folder) for folder in ROOMS},
}


def pages() -> dict[Path, str]:
    """Return each page that has such a table, with its tables as they should be, and the files of monitoring."""
    written = (ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md")))
    texts = {path: path.read_text(encoding="utf-8") for path in written}
    return {path: _TABLE.sub(_filled, text) for path, text in texts.items() if _TABLE.search(text)} | files()


def _filled(match: re.Match[str]) -> str:
    return match[1] + match[2] + "".join(f"{row}\n" for row in TABLES[match[1]]())


if __name__ == "__main__":
    for page, text in pages().items():
        page.write_text(text, encoding="utf-8")
