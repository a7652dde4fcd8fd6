# SPDX-License-Identifier: Apache-2.0
"""The demo's scenes: what is tried, what must come of it, and whether it did."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from arx_caps.demo.stage import Stage

TRIAGE = "acme/support/triage"
WORKER = "acme/support/worker"


@dataclass(frozen=True, slots=True)
class Scene:
    """One thing that was tried.

    Attributes:
        title: What, in words.
        expected: What had to come of it.
        came: What did.
        why: Lines that explain it, as the service told them.
        figures: Measured values by name.
    """

    title: str
    expected: str
    came: str
    why: tuple[str, ...] = ()
    figures: dict[str, Any] = field(default_factory=dict)

    @property
    def holds(self) -> bool:
        """Whether it came as expected."""
        return self.expected == self.came


def outcome(told: dict[str, Any]) -> str:
    """Write an answer as ``200 ok`` or ``403 tool_not_allowed``."""
    return f"{told['status']} {told['code']}"


def reasons(told: dict[str, Any]) -> tuple[str, ...]:
    """Return what was expected and what came, as the service told it."""
    failures = told.get("body", {}).get("failures", [])
    lines = [f"{f['place']}: {f['rule']}: expected {f['expected']}, came {f['came']}" for f in failures]
    return tuple(lines) or tuple(filter(None, [told.get("body", {}).get("detail")]))


class Story:
    """Plays the scenes on a stage, one after the other."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._order = stage.urls["orders"] + "/orders/o-1001"
        self._refunds = stage.urls["payments"] + "/refunds"
        self.session = ""
        self.tree: dict[str, Any] = {}
        self._lead = stage.actor()
        self._worker = stage.actor()

    def scenes(self) -> Iterator[Scene]:
        """Play every scene."""
        yield self._open()
        yield self._delegate()
        yield from self._ordinary_calls()
        yield from self._approval()
        yield from self._attacks()
        yield self._finished_task()
        yield from self._kill()
        yield self._tree()
        yield self._log()

    def _open(self) -> Scene:
        told = self._lead("open_session", key=str(self._stage.key_of(TRIAGE)), purpose="refund for ada")
        self.session = told.get("session", "")
        task = self._lead("start_task", name="main", template="refund", params={"order_id": "o-1001", "amount": 100})
        came = "a task with its tokens" if task.get("task") else outcome(task)
        return Scene(f"{TRIAGE} opens a session and starts the task refund", "a task with its tokens", came)

    def _delegate(self) -> Scene:
        args = {"payments.refund": {"amount": {"range": [0, 20]}}}
        tools = ["orders.get", "payments.list", "payments.refund"]
        told = self._lead("delegate", name="main", to=WORKER, tools=tools, args=args, ttl="5m", depth=0)
        taken = self._worker("receive", name="main", bundle=told.get("bundle", ""))
        title = f"it attenuates it offline for {WORKER}: refunds up to 20, five minutes"
        figures = {"took_ms": round(told.get("took_ms", 0.0), 2)}
        return Scene(title, WORKER, taken.get("holder") or outcome(taken), figures=figures)

    def _ordinary_calls(self) -> Iterator[Scene]:
        def scene(title: str, expected: str, told: dict[str, Any]) -> Scene:
            return Scene(title, expected, outcome(told), reasons(told) if told["status"] >= 400 else ())

        call = self._worker
        yield scene("the worker reads the order", "200 ok", call("call", name="main", method="GET", url=self._order))
        body = {"order_id": "o-1001", "amount": 15}
        paid = call("call", name="main", method="POST", url=self._refunds, body=body)
        yield scene("it refunds 15", "201 ok", paid)
        too_much = call("call", name="main", method="POST", url=self._refunds, body={**body, "amount": 500})
        yield scene("it tries to refund 500", "403 argument_not_allowed", too_much)
        other = call("call", name="main", method="DELETE", url=self._order)
        yield scene("it tries a tool outside the task", "403 tool_not_allowed", other)

    def _approval(self) -> Iterator[Scene]:
        self._lead("start_task", name="payout", template="payout", params={"order_id": "o-1001"})
        body = {"order_id": "o-1001", "amount": 400}
        call = {"name": "payout", "method": "POST", "url": self._refunds, "body": body}
        alone = self._lead("call", **call)
        title = "the orchestrator wants to refund 400, for which the policy wants an operator's yes"
        yield Scene(title, "403 missing_discharge", outcome(alone), reasons(alone))
        asked = self._lead("ask", name="payout", tool="payments.refund", args=body, why="the machine came back")
        self._stage.arx("approval", "approve", asked["approval"], "--yes")
        first, second = (self._lead("call", **call, approved=True) for _ in range(2))
        came = f"{outcome(first)}, then {outcome(second)}"
        title = "an operator approves this refund; it passes once"
        yield Scene(title, "201 ok, then 403 already_used", came, reasons(second))

    def _attacks(self) -> Iterator[Scene]:
        other_order = self._stage.urls["orders"] + "/orders/o-1002"
        for title, how, url, expected in (
            ("it adds a caveat that allows everything", "widened", other_order, "403 argument_not_allowed"),
            ("it cuts off the last caveat", "stripped", self._order, "401 bad_signature"),
            ("it sends one signed call twice", "replayed", self._order, "401 replayed"),
            (
                "it sends the orders token to payments",
                "other service",
                self._refunds + "/o-1001",
                "401 wrong_audience",
            ),
        ):
            told = self._worker("call_with", name="main", how=how, url=url)
            yield Scene(title, expected, outcome(told), reasons(told))

    def _finished_task(self) -> Scene:
        self._lead("start_task", name="side", template="refund", params={"order_id": "o-1002", "amount": 10})
        url = self._stage.urls["orders"] + "/orders/o-1002"
        before = self._lead("call", name="side", method="GET", url=url)
        self._lead("finish", name="side")
        after = self._lead("call", name="side", method="GET", url=url)
        came = f"{outcome(before)}, then {outcome(after)}"
        return Scene("another task is finished; its token is tried again", "200 ok, then 401 revoked", came)

    def _kill(self) -> Iterator[Scene]:
        urls = {"orders": self._order, "payments": self._refunds + "/o-1001"}
        self._worker("stream", name="main", urls=urls)
        report = self._stage.arx("kill", f"agent:{WORKER}", "--reason", "the demo's kill", "--yes")
        stopped = self._worker("stopped", timeout=5.0)
        killed_at = report["at_ms"] / 1000
        last = {name: (max(times) - killed_at) * 1000 for name, times in stopped["accepted"].items()}
        calls = sum(map(len, stopped["accepted"].values()))
        codes = sorted({outcome(told) for told in stopped["refused"].values()})
        refused = ", ".join(codes) if len(stopped["refused"]) == len(urls) else "not refused everywhere"
        figures = {
            "calls_before": calls,
            "last_accepted_after_ms": {name: round(ms, 1) for name, ms in last.items()},
            "report": report["summary"],
        }
        title = f"the operator kills {WORKER} in the middle of its calls to both services"
        yield Scene(title, "401 frozen, 401 revoked", _either(refused), (report["summary"],), figures)
        confirmed = f"{report['confirmed']} of {report['verifiers']} verifiers confirmed"
        yield Scene(
            "every verifier says that it has it",
            f"{report['verifiers']} of {report['verifiers']} verifiers confirmed",
            confirmed,
        )
        self._lead("start_task", name="new", template="refund", params={"order_id": "o-1001", "amount": 100})
        for title, task, expected in (
            ("the orchestrator hands the task over to it again, offline", "main", "401 revoked"),
            ("it delegates a task that was begun after the kill", "new", "401 frozen"),
        ):
            again = self._lead("delegate", name=task, to=WORKER, ttl="5m")
            self._worker("receive", name="again", bundle=again.get("bundle", ""))
            told = self._worker("call", name="again", method="GET", url=self._order)
            yield Scene(title, expected, outcome(told), reasons(told))
        told = self._lead("call", name="main", method="GET", url=self._order)
        yield Scene("the orchestrator itself goes on", "200 ok", outcome(told))

    def _tree(self) -> Scene:
        told = self._stage.arx("decisions", "--session", self.session)
        self.tree = told
        return Scene("every decision is there to ask for", "a tree", "a tree" if told else "nothing")

    def _log(self) -> Scene:
        count = self.tree["allowed"] + self.tree["denied"]
        logged = self._stage.logged(self.session, count)
        title = "the services have sent them to the mint, into the signed log"
        return Scene(title, f"{count} decisions", f"{logged} decisions")


def _either(refused: str) -> str:
    # A killed agent's token is revoked and its name is frozen: which of the two a call meets first is all the same.
    return "401 frozen, 401 revoked" if set(refused.split(", ")) <= {"401 frozen", "401 revoked"} else refused
