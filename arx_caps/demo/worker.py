# SPDX-License-Identifier: Apache-2.0
"""A sub-agent: it has no key, and is given one string on standard input, its task.

``work`` does the task, ``attack`` abuses it, ``loop`` calls both services until they refuse, ``look`` calls one once.
"""

import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import httpx

from arx_caps import Task
from arx_caps.demo.steps import outcome, report, report_call
from arx_verifier import Caveat, Macaroon, Rule

LOOP_S = 60.0  # without a kill the loop ends by itself


def work(task: Task, orders: str, payments: str) -> None:
    """Do what the task is for, and try what it does not allow."""
    refund = {"order_id": "o-1001", "amount": 15}
    with httpx.Client(auth=task.auth()) as client:
        report_call("the worker reads the order", client.get(f"{orders}/orders/o-1001"))
        report_call("it refunds 15", client.post(f"{payments}/refunds", json=refund))
        report_call("it tries to refund 500", client.post(f"{payments}/refunds", json={**refund, "amount": 500}))
        report_call("it tries a tool outside the task", client.delete(f"{orders}/orders/o-1001"))


def attack(task: Task, orders: str, payments: str) -> None:
    """Alter the token, and use a signed call for more than that call.  A holder can try; each service refuses."""
    token = Macaroon.parse(task.tokens["orders"])
    widened = token.attenuate(Caveat(allow=(Rule(tool="*"),), depth=16))
    longer = token.attenuate(Caveat(depth=0))
    stripped = Macaroon(token.parts()[0], longer.parts()[1])  # `longer` without its last caveat

    def call_with(altered: Macaroon, order_id: str) -> httpx.Response:
        auth = Task(task.bundle.with_tokens({"orders": altered})).auth()
        return httpx.get(f"{orders}/orders/{order_id}", auth=auth)

    report_call("it adds a caveat that allows everything", call_with(widened, "o-1002"))
    report_call("it cuts off the last caveat", call_with(stripped, "o-1001"))
    url = f"{orders}/orders/o-1001"
    signed = httpx.get(url, auth=task.auth()).request.headers["Authorization"]
    report_call("it sends one signed call twice", httpx.get(url, headers={"Authorization": signed}))
    other = httpx.get(f"{payments}/refunds/o-1001", headers={"Authorization": signed})
    report_call("it sends the orders token to payments", other)


def loop(task: Task, orders: str, payments: str) -> None:
    """Call both services at once until each refuses."""
    both = threading.Barrier(2, lambda: report("calling", "both services accepted a call"), LOOP_S)

    def call_on(url: str) -> tuple[str, float]:
        """Return the refusal, and when the last call was accepted, ms since the Unix epoch."""
        accepted, until = 0.0, time.monotonic() + LOOP_S
        with httpx.Client(auth=task.auth()) as client:
            while (came := outcome(client.get(url))) == "200 ok" and time.monotonic() < until:
                if not accepted:
                    both.wait()
                accepted = time.time() * 1000
        # A kill revokes the agent's tokens and freezes its name; a call meets either first.
        return came.replace("revoked", "ended").replace("frozen", "ended"), accepted

    with ThreadPoolExecutor() as threads:
        ends = list(threads.map(call_on, (f"{orders}/orders/o-1001", f"{payments}/refunds/o-1001")))
    came = " and ".join(came for came, _ in ends)
    report("the kill ends its calls to both services", came, last={"orders": ends[0][1], "payments": ends[1][1]})


def look(task: Task, orders: str, _: str, step: str) -> None:
    """Read the order once."""
    report_call(step, httpx.get(f"{orders}/orders/o-1001", auth=task.auth()))


if __name__ == "__main__":
    modes: dict[str, Callable[..., None]] = {"work": work, "attack": attack, "loop": loop, "look": look}
    modes[sys.argv[1]](Task.from_text(sys.stdin.readline()), *sys.argv[2:])
