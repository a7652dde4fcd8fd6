# SPDX-License-Identifier: Apache-2.0
"""*Approvals*: the calls that wait for an operator, their arguments as an approval binds them, and the answer."""

import json
from typing import Any, Final

from starlette.responses import Response

from arx_caps.console.command import command
from arx_caps.console.live import StreamEvent
from arx_caps.console.visit import Page, Visit
from arx_caps.mint.api.routes.work.approvals import (
    ApprovalShown,
    answer_approval_route,
    get_approval,
    list_approvals,
    show_approval,
    withdraw_approval_route,
)
from arx_caps.mint.db.repositories.work.approvals import WAITING
from arx_caps.mint.policy.roles import APPROVE

HOME: Final = "/console/approvals"
STATES: Final = ("waiting", "approved", "denied", "withdrawn", "expired", "ended")
SHOWN: Final = 50
EVERY_S: Final = 1.0


def show_inbox(visit: Visit) -> Response:
    """List the approvals in a state: those that wait, unless another one is asked for."""
    state = visit.query.get("state", WAITING)
    asked = {name: visit.query.get(name) for name in ("agent", "template", "session", "task", "after")}
    found = visit.call(list_approvals, query={"state": state if state != "all" else None, "limit": SHOWN, **asked})
    filters = {"state": state if state != "all" else None, **{name: asked[name] for name in asked if name != "after"}}
    return visit.render(
        "approvals.html",
        title="Approvals",
        command=command("approval list", filters),
        approvals=found.approvals,
        next=found.next or None,
        state=state,
        states=STATES,
        # Another filter, or a later page, would change under the reader's eyes.
        live=state == WAITING and not any(asked.values()),
    )


def stream_inbox(visit: Visit) -> Response:
    """Stream the calls that wait."""
    visit.call(list_approvals, query={"state": WAITING, "limit": SHOWN})
    mint = visit.mint
    last: list[list[ApprovalShown] | None] = [None]

    def waiting() -> list[list[ApprovalShown]]:
        rows = mint.db.approvals.list(statuses=(WAITING,), alive=True, limit=SHOWN)
        return [[one for one in (show_approval(mint, row) for row in rows[:SHOWN]) if one.state == WAITING]]

    def show(approvals: list[ApprovalShown], _: int) -> StreamEvent | None:
        # Only when it changed: a reader's place on the page and the focus stay where they are.
        if approvals == last[0]:
            return None
        last[0] = approvals
        return StreamEvent(visit.fragment("approvals_list.html", approvals=approvals, state=WAITING))

    return visit.stream(visit.live.broadcast("approvals", waiting, EVERY_S), show)


def show_one(visit: Visit) -> Response:
    """Show a call, its arguments exactly, and the form that approves or denies it."""
    return _show(visit, visit.call(get_approval, path=_path(visit)).approval)


def answer(visit: Visit) -> Response:
    """Approve or deny a call."""
    name = _path(visit)["approval"]
    body = {"approval": name, "outcome": visit.form.get("outcome", ""), "why": visit.form.get("why") or None}
    visit.call(answer_approval_route, body=body)
    return visit.redirect(f"{HOME}/{name}")


def withdraw(visit: Visit) -> Response:
    """Withdraw an approval: its discharge is revoked."""
    visit.call(withdraw_approval_route, path=_path(visit))
    return visit.redirect(f"{HOME}/{_path(visit)['approval']}")


def _show(visit: Visit, approval: ApprovalShown) -> Response:
    # ``approve`` shows the call with its arguments as well, and asks.
    verb = "approve" if approval.state == WAITING and visit.may(APPROVE) else "show"
    return visit.render(
        "approval.html",
        title=f"Approval {approval.id}",
        command=f"arx approval {verb} {approval.id}",
        approval=approval,
        args=[(name, _exact(value)) for name, value in approval.args.items()],
    )


def _exact(value: Any) -> str:
    # In ASCII: a mark that turns the direction of writing, or a letter that looks like another, must not deceive.
    return json.dumps(value, ensure_ascii=True, indent=1 if isinstance(value, dict | list) else None)


def _path(visit: Visit) -> dict[str, str]:
    return {"approval": visit.request.path_params["approval"]}


PAGES: Final = (
    Page("GET", HOME, show_inbox),
    Page("GET", f"{HOME}/live", stream_inbox),
    Page("GET", f"{HOME}/{{approval}}", show_one),
    Page("POST", f"{HOME}/{{approval}}", answer),
    Page("POST", f"{HOME}/{{approval}}/withdraw", withdraw),
)
