# SPDX-License-Identifier: Apache-2.0
"""An agent with a key: it opens a session, starts tasks, and delegates to ``worker.py``.

``python -m arx_caps.demo.orchestrator KEY_FILE ORDERS_URL PAYMENTS_URL``
"""

import subprocess
import sys

import httpx

from arx_caps import Agent, Session, Task
from arx_caps.demo.steps import report, report_call
from arx_verifier.token.holder import HolderKey

WORKER = "acme/support/worker"
TOOLS = ["orders.get", "payments.list", "payments.refund"]


def run_worker(task: Task, *words: str) -> None:
    """Run the sub-agent.  The task goes through its standard input: a command line can be read by other users."""
    command = [sys.executable, "-m", "arx_caps.demo.worker", *words]
    subprocess.run(command, input=task.encode(), text=True, check=True)


def lose_a_text(session: Session, orders: str) -> None:
    """Delegate a task that is bound to a key; its text alone, which a thief has, opens nothing."""
    url, key = f"{orders}/orders/o-1001", HolderKey.generate()
    bound = session.start_task("lookup", order_id="o-1001").delegate(WORKER, key=key)
    report_call("a task is bound to the worker's key; the worker reads the order", httpx.get(url, auth=bound.auth()))
    stolen = {"Authorization": f"Bearer {bound.tokens['orders']}"}
    report_call("a thief of its text reads the order without the key", httpx.get(url, headers=stolen))


def pay_out(session: Session, payments: str) -> None:
    """Refund more than the policy grants without an operator's approval."""
    body = {"order_id": "o-1001", "amount": 400}
    with session.start_task("payout", order_id="o-1001") as task, httpx.Client(auth=task.auth()) as client:
        report_call("the orchestrator refunds 400 without approval", client.post(f"{payments}/refunds", json=body))
        approval = task.ask_approval("payments.refund", body, why="the machine came back")
        report("asked", approval.id)
        auth = task.auth(approvals=[approval.wait(timeout_s=60.0)])
        answers = [client.post(f"{payments}/refunds", json=body, auth=auth) for _ in range(2)]
        report_call("an operator approves this refund; it is sent twice", *answers)


def finish_early(session: Session, orders: str) -> None:
    """Finish a task; its token ends with it."""
    task = session.start_task("refund", order_id="o-1002", amount=10)
    with httpx.Client(auth=task.auth()) as client:
        before = client.get(f"{orders}/orders/o-1002")
        task.finish()
        after = client.get(f"{orders}/orders/o-1002")
    report_call("another task is finished; its token is used again", before, after)


def main(key_file: str, orders: str, payments: str) -> None:
    """Work until the task is done.  The session ends with the block, and everything that came of it."""
    with Agent.from_key_file(key_file).open_session(purpose="refund for ada") as session:
        task = session.start_task("refund", order_id="o-1001", amount=100)
        report("the orchestrator opens a session and starts a task", task.agent, session=session.id)
        limits = {"payments.refund": {"amount": {"range": [0, 20]}}}
        limited = task.delegate(WORKER, tools=TOOLS, args=limits, ttl="5m", depth=0)  # offline
        report("it delegates to the worker: refunds up to 20, for five minutes", limited.holder)
        run_worker(limited, "work", orders, payments)
        run_worker(limited, "attack", orders, payments)
        lose_a_text(session, orders)
        pay_out(session, payments)
        finish_early(session, orders)
        run_worker(limited, "loop", orders, payments)
        again = task.delegate(WORKER, ttl="5m")
        run_worker(again, "look", orders, payments, "the orchestrator delegates the task to it again")
        later = session.start_task("refund", order_id="o-1001", amount=100).delegate(WORKER, ttl="5m")
        run_worker(later, "look", orders, payments, "it delegates a task that began after the kill")
        report_call("the orchestrator goes on", httpx.get(f"{orders}/orders/o-1001", auth=task.auth()))


if __name__ == "__main__":
    main(*sys.argv[1:])
