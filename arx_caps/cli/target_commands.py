# SPDX-License-Identifier: Apache-2.0
"""What ``arx kill``, ``arx freeze`` and ``arx thaw`` run: they report which verifiers confirmed it.  SPEC 10.

The mint is called first.  If it does not answer, the command writes the entry into the store itself.
"""

import contextlib
import difflib
import getpass
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

import click

from arx_caps.cli import exit_codes
from arx_caps.cli.access.mint_session import Caller, Unreachable
from arx_caps.cli.access.place import Place, all_options
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import yes_option
from arx_caps.cli.parse import Duration, Moment
from arx_caps.cli.resources import FREEZES, KILLS
from arx_caps.cli.terminal import Console, pairs, plain
from arx_caps.credentials.keyfile import KeyFile
from arx_caps.revocation.report import KillReport
from arx_caps.revocation.store import RevocationStore
from arx_caps.revocation.targets import KINDS, parse_target, parse_targets
from arx_caps.revocation.wire import DIRECT, OutcomeUnknownError
from arx_caps.settings.durations import parse_duration
from arx_verifier.errors import ArxError, RequestError, SettingsError, StoreError

# An operator who needs a kill needs it now, so an unreachable mint is passed by.  One that answers with a refusal is
# obeyed: else the permissions of operators would mean nothing here.
SIGN_IN_S: Final = 3.0  # a mint that takes longer to sign an operator in counts as unreachable for a kill
OUTCOME_S: Final = 60.0  # without --timeout: how long to ask a silent store for the outcome
LOOK_S: Final = 2.0  # for one answer, and for beginning further looks at the targets, before or after a kill
MOST_LOOKED_AT: Final = 10
WAIT_S: Final = 15.0  # a mint that takes longer over a kill is passed by as well; a second entry does no harm


_BY_LOOK: Final = {"s-": "session", "t-": "task", "a-": "task"}  # an approval is a target as a sub-task is


class Action(NamedTuple):
    """One of the three commands.

    Attributes:
        verb: The command's name.
        path: The mint's path.
        store: The name of the store's method.
    """

    verb: str
    path: str
    store: str


class _Order(NamedTuple):
    """What an operator wants to be done.

    Attributes:
        action: The action.
        targets: The targets.
        reason: The reason, for the record.
        wait: Whether to wait until every verifier has confirmed.
        timeout_ms: The longest time to wait, ms; None until every lease has ended.
        more: Further members of the request.
        began: When it began, by the monotonic clock, s.
    """

    action: Action
    targets: list[str]
    reason: str
    wait: bool
    timeout_ms: int | None
    more: dict[str, Any]
    began: float

    def unknown(self, why: str) -> KillReport:
        """Return the report of an outcome that is not known."""
        return KillReport.unknown(tuple(self.targets), round((time.monotonic() - self.began) * 1000, 3), why)


KILL: Final = Action("kill", KILLS.path, "kill_by_kind")
KILL_AND_FREEZE: Final = Action("kill", KILLS.path, "kill_and_freeze")
FREEZE: Final = Action("freeze", FREEZES.path, "freeze")
THAW: Final = Action("thaw", f"{FREEZES.path}/thaw", "thaw")


_FREEZE_TOO: Final = click.Option(
    ["--freeze"], is_flag=True, help="freeze each target as well, so that new work is refused until a thaw"
)


_MEMORY_BEFORE: Final = click.Option(
    ["--memory-before"],
    type=Moment(),
    help="trust again what the targets wrote into memories before this time, when they were not compromised yet",
)


def target_command(action: Action, text: str, kind: str | None = None) -> click.Command:
    """Return a command that kills, freezes or thaws.

    Args:
        action: The action.
        text: The help.
        kind: The kind of targets that are named by their ids alone; None for targets of any kind.
    """

    @click.command(action.verb, help=text)
    @click.argument(
        "targets",
        nargs=-1,
        required=True,
        metavar="TARGET..." if kind is None else f"{kind.upper()}...",
        shell_complete=lambda _ctx, _param, word: [] if kind else [name for name in KINDS if name.startswith(word)],
    )
    @click.option("--preview", is_flag=True, help="print what it would end, and do nothing")
    @click.option("--reason", help="reason, recorded in the audit log [prompted for]")
    @click.option("--wait/--no-wait", default=True, show_default=True, help="wait until every verifier has confirmed")
    @click.option("--timeout", type=Duration(), help="longest time to wait [until every lease has ended]")
    @click.option("--direct", is_flag=True, help="write into the store without calling the mint")
    @yes_option
    @all_options
    def command(console: Console, /, targets: Sequence[str], place: Place, yes: bool, **options: Any) -> None:
        _act(console, action, targets if kind is None else (kind, *targets), place, yes=yes, **options)

    if action is KILL:
        command.params.append(_FREEZE_TOO)
    if action is THAW:
        command.params.append(_MEMORY_BEFORE)
    return command


def _act(
    console: Console,
    action: Action,
    texts: Sequence[str],
    place: Place,
    *,
    yes: bool,
    preview: bool,
    reason: str | None,
    wait: bool,
    timeout: str | None,
    direct: bool,
    freeze: bool = False,
    memory_before: int | None = None,
) -> None:
    try:
        targets = read_targets(texts)
    except RequestError as error:
        raise Stop(str(error), hint=_meant(texts), code=error.code) from error
    if preview:
        _preview_alone(console, action, targets, place)
        return
    action = KILL_AND_FREEZE if freeze else action
    # Asked for before the confirmation, and never a default: the record must say why.
    reason = reason or ask_reason(console)
    # A person who is asked can still correct a name.  With --yes the kill comes first, and the look after it.
    warned = not yes and console.asks and not direct and action is not THAW
    if warned:
        _warn(console, place, action, targets)
    console.confirm(f"{action.verb} {', '.join(targets)}?", yes=yes)
    timeout_ms = parse_duration(timeout) if timeout else None
    more = {} if memory_before is None else {"memory_before": memory_before}
    # Measured from here: the report counts the time that the mint took before the store was used.
    order = _Order(action, targets, reason, wait, timeout_ms, more, time.monotonic())
    report, by, caller = None, "store", None
    if not direct:
        try:
            caller = _sign_in(place)
            report, by = _by_mint(caller, order), "mint"
        except Unreachable as error:
            console.say(f"{plain(error)}; writing into the store without the mint")
    if report is None:
        # A mint that was called and did not answer may have written the entry; then the outcome can be unknown.
        asked = caller is not None
        report = _by_store(console, order, place, asked=asked)
    console.data(action.verb, report | {"by": by}, f"{', '.join(targets)}: {plain(report.get('summary', ''))}")
    asked_mint = caller if by == "mint" else None
    for hint in _after(action, targets, asked_mint, known=report.get("status") != "unknown", warned=warned):
        console.hint(hint)
    click.get_current_context().exit(exit_codes.OK if report.get("status") == "confirmed" else exit_codes.INCOMPLETE)


def _after(
    action: Action, targets: Sequence[str], caller: Caller | None, *, known: bool, warned: bool
) -> Iterator[str]:
    """Yield what an operator may not expect after the action; ``caller`` if the mint did it."""
    # The kill of an agent, a subject or the realm also refuses what begins later, which may surprise.
    # An approval ends with its kill and cannot begin again, so it leaves no freeze.
    killed = parse_targets(targets) if action in (KILL, KILL_AND_FREEZE) else ()
    frozen = [
        str(target)
        for target in killed
        if action is KILL_AND_FREEZE or ("freeze" in target.kill_op and target.kind != "task")
    ]
    if frozen and known:
        yield f"new work is refused as well, until `arx thaw {' '.join(frozen)}`"
    if action is not THAW and any(target.kind == "operator" for target in parse_targets(targets)):
        yield "approvals by this operator end as well: `arx approval list --state withdrawn` shows them"
    if caller is not None and action is not THAW and not warned:
        yield from doubts_of(look_at(caller, action, targets), after=True)
    if caller is not None and action is THAW:
        for target, state in over_of(caller, targets):
            yield f"{target} is {state} and stays so: start a new {target.partition(':')[0]}"
    thawed = {target.kind for target in parse_targets(targets)} if action is THAW else set()
    if "agent" in thawed:
        yield "killed tokens stay revoked, also in what older tasks delegate to this agent: start new tasks"
    elif thawed & {"realm", "subject"}:
        yield "killed sessions and tokens stay revoked: open new sessions, and start new tasks"


def read_targets(texts: Sequence[str]) -> list[str]:
    """Parse targets: ``KIND:ID`` each, or a kind and then its ids.

    Raises:
        RequestError: A text is no target.
    """
    kind = texts[0]
    if kind in KINDS and kind != "realm" and len(texts) > 1:
        texts = [f"{kind}:{name.removeprefix(kind + ':')}" for name in texts[1:]]
    return [str(target) for target in parse_targets(texts)]


def _meant(texts: Sequence[str]) -> str | None:
    """Return a hint on targets whose kind is missing or mistyped, or None."""
    for text in texts:
        with contextlib.suppress(ValueError):
            parse_duration(text)
            return f"--wait takes no value; did you mean --timeout {text}?"
    if texts[0] in KINDS:
        return None
    for text in texts:
        kind, colon, name = text.rpartition(":")
        if kind in KINDS:
            continue
        for meant in difflib.get_close_matches(kind, KINDS, 1) if colon else [_BY_LOOK.get(text[:2], "agent")]:
            with contextlib.suppress(RequestError):
                return f"did you mean {parse_target(f'{meant}:{name}')}?"
    return None


def look_at(caller: Caller, action: Action, targets: Sequence[str]) -> dict[str, Any] | None:
    """Return the mint's preview of an action, or None if it has none in time or the operator may not see it."""
    caller.set_timeout(LOOK_S)
    body = {"targets": list(targets), "op": action.verb}
    try:
        return caller.call("POST", f"{KILLS.path}/preview", body, repeats=False)
    except (Stop, ArxError):
        return None


def doubts_of(preview: dict[str, Any] | None, *, after: bool) -> Iterator[str]:
    """Yield hints on targets that look mistyped: the intended ones are still alive.

    Args:
        preview: The mint's preview; None if there is none.
        after: Whether the action was done, so that what is over may be its work.
    """
    for looked in (preview or {}).get("targets", ()):
        target, note, meant = looked["target"], looked["note"], looked["meant"]
        if looked["state"] == "unknown" and meant is not None:
            yield f"{target}: {note}; did you mean {meant}?"
        elif looked["state"] == "unknown":
            # A holder delegates to a sub-agent offline, so the mint cannot know its name.
            check = (
                "name, unless it is a sub-agent, whose name is only in tokens" if target.startswith("agent:") else "id"
            )
            yield f"{target}: {note}: check the {check}"
        elif looked["state"] == "over" and not after:
            yield f"{target}: {note}"


def extent_of(preview: dict[str, Any]) -> list[tuple[str, Any]]:
    """Return the numbers of a preview with their names."""
    about = "" if preview["exact"] else "about "
    waits, services = preview["verifiers"], preview["services"]
    unseen = ", ".join(service["service"] for service in services if not service["verifiers"])
    return [
        *((name, f"{about}{preview[name]}") for name in ("sessions", "tasks")),
        *((name, preview[name]) for name in ("agents", "delegations")),
        ("tokens", f"about {preview['tokens']}, and all that holders made from them"),
        (
            "must confirm",
            f"unknown: {preview['error']}" if waits is None else f"{waits} verifier{'' if waits == 1 else 's'}",
        ),
        ("never seen", unseen or None),
    ]


def _preview_alone(console: Console, action: Action, targets: Sequence[str], place: Place) -> None:
    """Print what an action would end, and do nothing."""
    caller = place.mint(SIGN_IN_S)
    preview = caller.call("POST", f"{KILLS.path}/preview", {"targets": list(targets), "op": action.verb})
    console.data("preview", preview, lambda: pairs(extent_of(preview)))
    for doubt in doubts_of(preview, after=False):
        console.hint(doubt)


def _warn(console: Console, place: Place, action: Action, targets: Sequence[str]) -> None:
    """Write what an action would end, and which targets look mistyped, before the question."""
    with contextlib.suppress(Stop, ArxError):
        preview = look_at(_sign_in(place), action, targets)
        if preview is not None:
            console.say(pairs(extent_of(preview), indent="  "))
        for doubt in doubts_of(preview, after=False):
            console.hint(doubt)


def over_of(caller: Caller, targets: Sequence[str]) -> list[tuple[str, str]]:
    """Return the thawed sessions and tasks that have ended all the same, each with its state."""
    caller.set_timeout(LOOK_S)
    found = []
    for target in parse_targets(targets[:MOST_LOOKED_AT]):
        if target.kind in ("session", "task") and not str(target.name).startswith("a-"):
            with contextlib.suppress(Stop):
                state = caller.call("GET", f"/v1/{target.kind}s/{target.name}")[target.kind]["state"]
                found += [(str(target), str(state))] if state not in ("open", "frozen") else []
    return found


def ask_reason(console: Console) -> str:
    """Return the reason that an operator types.

    Args:
        console: Asks for it.

    Raises:
        click.UsageError: No one can be asked.
    """
    if not console.asks:
        raise click.UsageError("the reason is missing: give --reason TEXT, which is recorded in the audit log")
    return str(click.prompt("reason", err=True))


def _sign_in(place: Place) -> Caller:
    try:
        return place.mint(SIGN_IN_S)
    except Stop as error:
        if error.code == "no_key" or error.exit_code == exit_codes.UNAUTHENTICATED:
            error.hint = "without a key, or if the mint has lost its database, use --direct"
        raise


def _by_mint(caller: Caller, order: _Order) -> dict[str, Any]:
    # With --timeout the mint gets that time and a margin for its answer; without, a hanging mint must not delay a kill.
    caller.set_timeout(WAIT_S if order.timeout_ms is None else order.timeout_ms / 1000 + SIGN_IN_S)
    body = {"targets": order.targets, "reason": order.reason, "wait": order.wait, **order.more}
    body |= {"freeze": True} if order.action is KILL_AND_FREEZE else {}
    return caller.call("POST", order.action.path, body, repeats=False)  # the store is the faster second way


def _by_store(console: Console, order: _Order, place: Place, *, asked: bool) -> dict[str, Any]:
    """Write into the store; if the mint was called before, the entry may exist even after an error."""
    timeout_ms = order.timeout_ms if order.wait else 0
    outcome_s = OUTCOME_S if timeout_ms is None else max(timeout_ms / 1000, 1.0)
    try:
        store = place.store(outcome_s=outcome_s, on_doubt=lambda text: console.say(plain(text)))
        store.header()  # while this fails, nothing was written
        return _bump(store, order, _who(place), timeout_ms).to_dict()
    except (StoreError, SettingsError) as error:
        if asked:
            return order.unknown(f"the mint did not confirm, and then {error}").to_dict()
        if isinstance(error, SettingsError):
            raise Stop(f"nothing was done: {error}", hint=error.hint, code=error.code) from error
        hint = "start it (`arx up`) and try again; without it, verifiers refuse every call once their leases end"
        raise Stop(f"nothing was done: {error}", exit_codes.UNREACHABLE, hint=hint, code=error.code) from error


def _bump(store: RevocationStore, order: _Order, by: str, timeout_ms: int | None) -> KillReport:
    try:
        bump = getattr(store, order.action.store)(order.targets, order.reason, by, **order.more)
    except OutcomeUnknownError as error:  # the store took the command and did not answer
        return order.unknown(str(error))
    return store.wait_confirmed(bump, timeout_ms)


def _who(place: Place) -> str:
    """Return the author of a direct entry: the key file's operator, and the user of this machine."""
    try:
        name = KeyFile.load(place.operator_key).subject
    except ArxError:
        name = "operator:?"
    try:
        user = getpass.getuser()
    except (OSError, KeyError):
        user = "?"
    return f"{name}{DIRECT}{user})"
