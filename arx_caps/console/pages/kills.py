# SPDX-License-Identifier: Apache-2.0
"""*Kill*, *Kills*, *Frozen*: end or freeze targets, follow the confirmations, and see what is refused and why.

All of it works without JavaScript; with it, a stream shows the confirmations while they come in.
"""

import secrets
from typing import Any, Final, NamedTuple

from starlette.responses import Response

from arx_caps.console.command import command, quoted
from arx_caps.console.live import StreamEvent
from arx_caps.console.submissions import Submissions
from arx_caps.console.visit import Page, Visit
from arx_caps.mint.api.routes.operations.kills import (
    ConfirmationsShown,
    KillPreview,
    freeze_targets,
    get_kill,
    kill_targets,
    list_freezes,
    list_kills,
    preview_kill,
    progress_of,
    thaw_freezes,
)
from arx_caps.revocation.targets import KINDS
from arx_verifier.errors import ArxError, AuditError, RequestError, StoreError

HOME: Final = "/console/kills"
DIALOG: Final = "/console/kill"
FROZEN: Final = "/console/frozen"


class Choice(NamedTuple):
    """What an operator can do to targets.

    Attributes:
        action: The action that it needs.
        label: What the page calls it.
        text: What it does.
    """

    action: str
    label: str
    text: str


CHOICES: Final = {
    "kill": Choice("arx.kill", "Kill", "ends what was issued before now, for ever"),
    "kill+freeze": Choice("arx.kill", "Kill and freeze", "ends it, and refuses new work until a thaw"),
    "freeze": Choice("arx.freeze", "Freeze", "refuses it until a thaw; the same tokens then work again"),
    "thaw": Choice("arx.thaw", "Thaw", "ends a freeze; what was killed stays revoked: it needs new sessions and tasks"),
}
NAMES: Final = {name: choice.label for name, choice in CHOICES.items()} | {"each": "Kill"}
SHOWN: Final = 50
EVERY_S: Final = 0.25
MAX_TEXT: Final = 120_000  # of the targets' field: 1000 of the longest


_SUBMISSIONS: Final = Submissions[int]()


def show_dialog(visit: Visit) -> Response:
    """Show the form of a kill, freeze or thaw; with targets, what it would end."""
    what = visit.query.get("what") or visit.request.url.path.rpartition("/")[2]
    return _dialog(visit, what, _targets(visit.query.get("target", "")), visit.query.get("reason", ""))


def submit(visit: Visit) -> Response:
    """Preview a kill again, or make it, and lead to its page."""
    what, texts, reason = (visit.form.get(name, "") for name in ("what", "targets", "reason"))
    targets, reason = _targets(texts), reason.strip()
    if visit.form.get("do") != "go":
        return _dialog(visit, what, targets, reason)
    if what not in CHOICES:
        raise RequestError(f"invalid choice: expected one of {', '.join(CHOICES)}")
    try:
        sent = (visit.operator.id, visit.form.get("form", ""), what, reason, *targets)
        seq = _SUBMISSIONS.once(sent, lambda: _make(visit, what, targets, reason))
    except (AuditError, StoreError) as error:
        return _dialog(visit, what, targets, reason, error=error)
    except RequestError as error:
        return _dialog(visit, what, targets, reason, problem=f"{error}.")
    return visit.redirect(f"{HOME}/{seq}")


def _make(visit: Visit, what: str, targets: list[str], reason: str) -> int:
    if not targets:
        raise RequestError("name at least one target")
    if not reason:
        raise RequestError("give a reason: the audit log keeps it")
    # Not waited for here: the kill's page shows the confirmations, and the mint records them.
    body: dict[str, Any] = {"targets": targets, "reason": reason, "wait": False}
    if what == "freeze":
        return visit.call(freeze_targets, body=body).seq
    if what == "thaw":
        return visit.call(thaw_freezes, body=body).seq
    return visit.call(kill_targets, body=body | {"freeze": what == "kill+freeze"}).seq


def _dialog(
    visit: Visit,
    what: str,
    targets: list[str],
    reason: str,
    *,
    problem: str = "",
    error: ArxError | None = None,
) -> Response:
    offered = {name: choice for name, choice in CHOICES.items() if visit.may(choice.action)}
    what = what if what in offered else next(iter(offered), "")
    preview = None
    if targets and offered and error is None:
        try:
            preview = _preview(visit, what, targets)
        except RequestError as refused:
            problem = problem or f"{refused}."
    return visit.render(
        "kill_dialog.html",
        503 if error is not None else 400 if problem else 200,
        title=CHOICES[what].label if what else "Kill",
        command=_command(what or "kill", targets),
        direct=_command(what or "kill", targets, direct=True),
        what=what,
        offered=offered,
        targets=targets,
        reason=reason,
        preview=preview,
        problem=problem,
        error=error,
        form=secrets.token_hex(8) if error is None else visit.form.get("form", ""),
        kinds=[kind.example for kind in KINDS.values()],
    )


def _preview(visit: Visit, what: str, targets: list[str]) -> KillPreview | None:
    try:
        return visit.call(preview_kill, body={"targets": targets, "op": what})
    except RequestError:
        raise
    except ArxError:  # a role of its own without previews, or a database that is down: the kill itself may work
        return None


def show_kills(visit: Visit) -> Response:
    """List past kills, freezes and thaws."""
    target = visit.query.get("target", "").strip()
    found = visit.call(list_kills, query={"target": target, "after": visit.query.get("after"), "limit": SHOWN})
    return visit.render(
        "kills.html",
        title="Kills",
        command=command("kills list", {"target": target}),
        found=found,
        target=target,
    )


def show_kill(visit: Visit) -> Response:
    """Show a kill: what it ended, why, and which verifiers have confirmed it."""
    kill = visit.call(get_kill, path={"seq": visit.request.path_params["seq"]})
    return visit.render(
        "kill.html",
        title=f"{NAMES[kill.op]} {kill.seq}",
        command=f"arx kills show {kill.seq}",
        kill=kill,
        seen=kill.confirmations,
    )


def stream_kill(visit: Visit) -> Response:
    """Stream the confirmations of a kill."""
    kill = visit.call(get_kill, path={"seq": visit.request.path_params["seq"]})
    mint, last = visit.mint, [kill.confirmations]
    broadcast = visit.live.broadcast("kills", lambda: [progress_of(mint)], EVERY_S)

    def show(progress: dict[int, ConfirmationsShown], _: int) -> StreamEvent | None:
        seen = progress.get(kill.seq)
        if seen is None or seen == last[0]:
            return None
        last[0] = seen
        return StreamEvent(visit.fragment("kill_parts.html", kill=kill, seen=seen))

    first = StreamEvent(visit.fragment("kill_parts.html", kill=kill, seen=kill.confirmations))
    return visit.stream(broadcast, show, lambda: (first,))


def show_frozen(visit: Visit) -> Response:
    """List what is refused now."""
    kind = visit.query.get("kind", "")
    found = visit.call(list_freezes, query={"kind": kind, "after": visit.query.get("after"), "limit": SHOWN})
    return visit.render(
        "frozen.html",
        title="Frozen",
        command="arx frozen list" + (f" --kind {kind}" if kind in KINDS else ""),
        found=found,
        kind=kind,
        kinds=tuple(KINDS),
    )


def _targets(text: str) -> list[str]:
    if len(text) > MAX_TEXT:
        raise RequestError(f"too many targets: expected at most {MAX_TEXT} characters")
    return list(dict.fromkeys(text.replace(",", " ").split()))


def _command(what: str, targets: list[str], *, direct: bool = False) -> str:
    verb, options = ("kill", " --freeze") if what == "kill+freeze" else (what, "")
    named = " ".join(map(quoted, targets[:5])) + (" …" if len(targets) > 5 else "")
    return f"arx {verb} {named or 'TARGET'}{options} --reason …{' --direct' if direct else ''}"


PAGES: Final = (
    Page("GET", DIALOG, show_dialog, urgent=True),
    Page("GET", "/console/freeze", show_dialog, urgent=True),
    Page("GET", "/console/thaw", show_dialog, urgent=True),
    Page("POST", DIALOG, submit, urgent=True),
    Page("GET", HOME, show_kills),
    Page("GET", f"{HOME}/{{seq}}", show_kill, urgent=True),
    Page("GET", f"{HOME}/{{seq}}/live", stream_kill),
    Page("GET", FROZEN, show_frozen),
)
