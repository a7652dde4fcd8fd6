# SPDX-License-Identifier: Apache-2.0
"""Values as text for people: durations, times, JSON, rows of the mint and of records."""

import contextlib
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.terminal import Console, json_line, plain, record_line, table
from arx_caps.settings.durations import show_span, show_time
from arx_caps.text.caveat_text import show_json
from arx_caps.text.record_text import why_of
from arx_verifier.clock import now_ms

if TYPE_CHECKING:
    from arx_caps.cli.access.mint_session import Caller

NAMED: Final = 20  # services in a hint; `arx service list` has all
TARGETS: Final = 3  # of a kill, in a line
REFUSED: Final = ("deny", "end", "counted")  # of the counts of decisions
Row = Mapping[str, Any]
Cell = Callable[[Row], Any]


def show_until(ms: int, now_ms: int) -> str:
    """Return a time with its distance from now.

    Args:
        ms: The time, ms since the Unix epoch.
        now_ms: The current time, ms since the Unix epoch.
    """
    away = f"in {show_span(ms - now_ms)}" if ms > now_ms else f"{show_span(now_ms - ms)} ago"
    return f"{show_time(ms)} ({away})"


HEADS: Final = ("TIME", "OUTCOME", "SERVICE", "TOOL", "AGENT", "SESSION", "WHY")


def row_of(shown: Mapping[str, Any]) -> list[str]:
    """Return the cells of a record, given in the form of ``Decision.to_dict`` or of the mint's log."""
    if "kind" in shown:
        named = {name: value for name, value in (shown["named"] or {}).items() if name not in ("agent", "session")}
        named |= {name: shown["facts"][name] for name in ("account",) if name in (shown["facts"] or {})}
        about, who = shown["named"].get("session"), shown["named"].get("agent") or shown["by"]
        cells = (show_time(shown["at"]), "event", "mint", shown["kind"], who, about, show_json(named) if named else "")
    elif "outcome" in shown:
        who = " -> ".join((shown["agent"], *shown["named"]))
        # A record of counts has no token, so no audience.
        service = shown["audience"] or shown.get("service") or shown["verifier"]
        cells = (show_time(shown["at"]), shown["outcome"], service, shown["tool"], who, shown["session"], why_of(shown))
    else:
        cells = ("-", "unreadable", shown["service"], "-", "-", "-", shown["problem"])
    return [plain("" if cell is None else cell) or "-" for cell in cells]


def write_records(
    console: Console, noun: str, records: Iterable[Mapping[str, Any]], widths: Sequence[int], *, jsonl: bool
) -> None:
    """Write records as they come, a line each.

    Args:
        console: The output.
        noun: The name of one in the schema.
        records: The records, as ``row_of`` takes them.
        widths: The widths of the columns, of records that are known.
        jsonl: Whether each is an object.
    """
    for record in records:
        console.raw(json_line(noun, dict(record)) if jsonl else record_line(row_of(record), widths))


def hint_audience(console: Console, answer: Mapping[str, Any]) -> None:
    """Hint that no task has a token for a service yet: a typing error, or a policy that is not active yet.

    Args:
        console: Gets the hint.
        answer: The mint's answer with the service, or with its invitation.
    """
    if not answer.get("in_policy", True):
        console.hint(
            f"add [audience.{answer['audience']}] to the policy: without it no task gets a token for this service"
        )


def hint_unshipped(console: Console, services: Collection[str]) -> None:
    """Hint that the log lacks the decisions of services that run.

    Args:
        console: Gets the hint.
        services: Services with a live verifier, of which the log has no record.
    """
    if services:
        named = ", ".join(sorted(services)[:NAMED]) + (f" and {len(services) - NAMED} more" * (len(services) > NAMED))
        console.hint(
            f"the log has no record of {named}: a verifier runs that has decided nothing, or does not ship; see the "
            "log of its process, or run `arx ship FILE` beside it"
        )


def hint_silent(console: Console, mint: "Caller") -> None:
    """Ask the mint which services run and never shipped, and hint at them; without the permission for it, at none."""
    with contextlib.suppress(Stop):
        hint_unshipped(console, mint.call("GET", "/v1/status")["services_never_shipped"])


def targets_of(kill: Row, most: int | None = TARGETS) -> str:
    """Return the targets of a kill, freeze or thaw, at most so many, and how many more it has."""
    shown = [target["target"] for target in kill["targets"][:most]]
    left = kill["target_count"] - len(shown)
    return ", ".join(shown) + (f" and {left} more" if left else "")


def facts_of(row: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return names and values of a row, with times, lists and objects as text."""
    return [(name.replace("_", " "), text_of(name, value)) for name, value in row.items()]


def text_of(name: str, value: Any) -> Any:
    """Return the value of a member of a row as text: of a time, a list or an object."""
    if name.endswith("_at") and isinstance(value, int):
        return show_time(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {_member(inner)}" for key, inner in value.items()) or None
    if isinstance(value, list):
        return ", ".join(map(_member, value)) or None
    return value


def _member(value: Any) -> str:
    """Return a member of a list or an object as text; an enrolled key as its id and its start."""
    if isinstance(value, dict) and value.keys() >= {"kid", "added_at"}:
        use = f", used {show_time(value['used_at'])}" if "used_at" in value else ""
        by = f" by version {value['version']}" if "version" in value else ""
        return f"{value['kid']} since {show_time(value['added_at'])}{use}{by}"
    return show_json(value) if isinstance(value, dict | list | bool) else str(value)


def table_of(rows: Iterable[Row], columns: str, cells: Mapping[str, Cell] = {}) -> str:
    """Return rows of the mint as a table.

    Args:
        rows: The rows.
        columns: The heads of the columns: ``STATE`` shows the member ``state`` of a row, ``MADE: created_at`` another.
        cells: By head, what shows a row in place of a member.
    """
    return show_rows(rows, columns_of(columns, cells))


def columns_of(columns: str, cells: Mapping[str, Cell]) -> dict[str, Cell]:
    """Return the columns of ``table_of``, by their heads."""
    shown = {}
    for column in columns.split(", "):
        head, _, member = column.partition(": ")
        shown[head] = cells.get(head) or _cell_of(member or head.lower())
    assert cells.keys() <= shown.keys(), cells.keys() - shown.keys()
    return shown


def show_rows(rows: Iterable[Row], columns: Mapping[str, Cell]) -> str:
    """Return rows as a table of the columns that ``columns_of`` returned."""
    return table(tuple(columns), [[cell(row) for cell in columns.values()] for row in rows])


def _cell_of(name: str) -> Cell:
    # A mint of another version may leave a member out.
    return lambda row: text_of(name, row.get(name))


def time_of(name: str, without: str | None = None) -> Cell:
    """Return what shows a time of a row, or ``without`` in its place."""
    return lambda row: show_time(row[name]) if row.get(name) else without


def age_of(name: str) -> Cell:
    """Return what shows how long ago a time of a row is."""
    return lambda row: "never" if row[name] is None else f"{show_span(max(0, now_ms() - row[name]))} ago"


def _confirmed(kill: Row) -> str:
    seen = kill["confirmations"]
    if seen is None:
        return "waiting"
    return f"{seen['confirmed']} of {seen['verifiers']} in {show_span(round(seen['took_ms']))}"


KILL_CELLS: Final[dict[str, Cell]] = {"TIME": age_of("at_ms"), "TARGETS": targets_of, "CONFIRMED": _confirmed}


def status_facts(status: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return what the mint says of itself, its fleet and its log, by name."""
    # Imported on use: it takes the store's client, which most commands need not.
    from arx_caps.revocation.wire import GONE_MS, count_states

    store, log = status["store"], status["log"]
    present = {v["service"] for v in status["verifiers"] if v["state"] != "gone"}
    # Of a service that runs, what was silent for longer has been replaced.
    fleet = [
        v for v in status["verifiers"] if v["state"] != "gone" or v["age_ms"] < GONE_MS or v["service"] not in present
    ]
    counts = count_states((v["state"], v["relay_of"]) for v in fleet)
    verifiers = ", ".join(f"{count} {state}" for state, count in counts.items())
    never = status["services_never_seen"]
    return [
        ("realm", status["realm"]),
        ("version", status["version"]),
        ("grants", "yes" if status["ready"] else f"no: {'; '.join(status['because'])}"),
        ("policy", status["policy"]),
        ("store", store["error"] or f"at {store['seq']}, lease {show_span(store['lease_ms'])}"),
        ("verifiers", verifiers + (f"; never seen: {', '.join(never)}" if never else "")),
        ("slowest", f"{max((v['behind'] for v in fleet if v['state'] == 'live'), default=0)} behind"),
        ("decisions", _rate(status["rates"])),
        (
            "work",
            f"{status['sessions']} sessions, {status['tasks']} tasks, {status['approvals_waiting']} approvals wait",
        ),
        ("audit log", log["halted"] or log["failing"] or f"{log['size']} records, {log['signed']} signed"),
        ("signed", show_time(log["signed_at"]) if log["signed_at"] is not None else "never"),
    ]


def _rate(rates: dict[str, int] | None) -> str:
    if rates is None:
        return "unknown"
    decisions = rates["allowed"] + rates["refused"]
    a_second = 1000 * decisions / rates["over_ms"]
    return (
        f"{a_second:.1f} a second, {rates['refused']} of {decisions} refused in the last {show_span(rates['over_ms'])}"
    )


def show_top(top: dict[str, Any]) -> str:
    """Return the names of one kind with their counts, as a table."""
    heads: tuple[str, ...] = (top["by"].upper(), "DECISIONS", "ALLOW", "REFUSED", "REFUSED %")
    if top["by"] == "reason":
        heads = ("REASON", "REFUSED")
    if top["by"] == "session":
        heads = ("SESSION", "AGENT", *heads[1:])
    rows = [_row(top["by"], plain(row["name"]), row) for row in top["rows"]]
    if any(top["rest"].values()):
        rows.append(_row(top["by"], "others", top["rest"]))
    return table(heads, rows)


def _row(by: str, name: str, counts: dict[str, Any]) -> tuple[Any, ...]:
    refused = sum(counts[kind] for kind in REFUSED)
    if by == "reason":
        return name, f"{refused:,}"
    decisions = counts["allow"] + refused
    share = f"{100 * refused / decisions:.1f}" if decisions else "-"
    numbers = (f"{decisions:,}", f"{counts['allow']:,}", f"{refused:,}", share)
    return (name, plain(counts.get("agent", "")), *numbers) if by == "session" else (name, *numbers)
