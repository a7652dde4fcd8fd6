# SPDX-License-Identifier: Apache-2.0
"""Who calls during the rehearsal: agents at work, and holders of killed tokens who go on trying."""

import itertools
import threading
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import httpx

from arx_caps.agent import Agent
from arx_caps.agent.tasks.task import Task
from arx_verifier.errors import ArxError
from tests.faults.rehearsal.site import Service

WORKER: Final = "acme/support/worker"
AGENTS: Final = ("acme/desk/a", "acme/desk/b", "acme/desk/c")
LEASE_S: Final = 1.0
PATHS: Final = {"orders": "/orders/o-1001", "payments": "/refunds/o-1001"}
PAUSE_S: Final = 0.05  # after a failed call: what is down is not asked in a busy loop
# Between the calls of a holder: quick around its kill, then slow, so that dozens of them do not take the processors.
TRY_S: Final = (0.02, 0.3)
SLOWER: Final = 1.2
TIMEOUT_S: Final = 5.0


class Worker(threading.Thread):
    """An agent at work: opens a session, starts a task, delegates, calls every service, refunds, finishes.

    Attributes:
        rounds: How often it did all of that without a failure.
        answered: How many calls were answered with success, by session.
        failures: Why rounds broke off, by code.
    """

    def __init__(self, key: Path, services: Sequence[Service], over: threading.Event) -> None:
        super().__init__(daemon=True, name=key.stem)
        self._key, self._services, self._over = key, services, over
        self.rounds = 0
        self.answered: Counter[str] = Counter()
        self.failures: Counter[str] = Counter()

    def run(self) -> None:
        """Work until stopped."""
        while not self._over.is_set():
            try:
                self._round()
                self.rounds += 1
            except (ArxError, httpx.HTTPError) as error:
                self.failures[getattr(error, "code", type(error).__name__)] += 1
                self._over.wait(PAUSE_S)

    def _round(self) -> None:
        with Agent.from_key_file(self._key) as agent, agent.open_session(purpose="rehearsal") as session:
            task = session.start_task("refund", order_id="o-1001", amount=1)
            self._work(task, task.delegate(WORKER), session.id)
            task.finish()

    def _work(self, task: Task, handed: Task, session: str) -> None:
        for holder in (task, handed):
            with httpx.Client(auth=holder.auth(), timeout=TIMEOUT_S) as client:
                for service in self._services:
                    self._note(client.get(service.url + PATHS[service.audience]), session)
                    if service.audience == "payments":
                        body = {"order_id": "o-1001", "amount": 1}
                        self._note(client.post(service.url + "/refunds", json=body), session)

    def _note(self, response: httpx.Response, session: str) -> None:
        if response.is_success:
            self.answered[session] += 1
            return
        code = response.json().get("code", "none") if response.content else "none"
        self.failures[f"call: {response.status_code} {code}"] += 1
        response.raise_for_status()


class Late(NamedTuple):
    """A killed token that was accepted after the bound."""

    what: str
    service: str
    seconds: float


class Holder(threading.Thread):
    """A client with a token that is killed, which goes on calling one service with it.

    Args:
        what: What is killed.
        task: The tokens.
        service: Whom it calls.
        over: Ends it.

    Attributes:
        accepted: How many calls were accepted.
        late: Calls that began after the bound and were accepted.
    """

    def __init__(self, what: str, task: Task, service: Service, over: threading.Event) -> None:
        super().__init__(daemon=True, name=f"holder of {what}")
        self.what, self._task, self.service, self._over = what, task, service, over
        self.accepted = self.refused = 0
        self.killed_at: float | None = None
        self.late: list[Late] = []

    def run(self) -> None:
        """Call until stopped."""
        url, pause = self.service.url + PATHS[self.service.audience], TRY_S[0]
        with httpx.Client(auth=self._task.auth(), timeout=TIMEOUT_S) as client:
            while not self._over.is_set():
                began = time.monotonic()
                try:
                    accepted = client.get(url).is_success
                except (ArxError, httpx.HTTPError):
                    accepted = False
                self._count(accepted, began)
                pause = TRY_S[0] if accepted else min(pause * SLOWER, TRY_S[1])
                self._over.wait(pause)

    def _count(self, accepted: bool, began: float) -> None:
        self.accepted += accepted
        self.refused += not accepted
        if accepted and self.killed_at is not None and began > self.killed_at + LEASE_S + 1:
            self.late.append(Late(self.what, self.service.name, began - self.killed_at))


class Crowd:
    """All agents and holders.

    Attributes:
        workers: The agents at work.
        holders: Holders of tokens that are, or will be, killed.
    """

    def __init__(self, services: Sequence[Service]) -> None:
        self.services = services
        self.over = threading.Event()
        self.workers: list[Worker] = []
        self.holders: list[Holder] = []
        self._numbers = itertools.count(1)

    def employ(self, keys: Sequence[Path]) -> None:
        """Put an agent to work for each key file."""
        self.workers = [Worker(key, self.services, self.over) for key in keys]
        for worker in self.workers:
            worker.start()

    def rounds(self) -> list[int]:
        """Return how many rounds each agent has done."""
        return [worker.rounds for worker in self.workers]

    def hold(self, what: str, task: Task) -> list[Holder]:
        """Have a task's tokens used at every service, from now on to the end."""
        holders = [Holder(what, task, service, self.over) for service in self.services]
        for holder in holders:
            holder.start()
        self.holders += holders
        return holders

    def close(self) -> None:
        """Stop all, and wait for them."""
        self.over.set()
        for thread in (*self.workers, *self.holders):
            thread.join(60)

    @property
    def late(self) -> list[Late]:
        """All killed tokens that were accepted after the bound."""
        return [late for holder in self.holders for late in holder.late]

    @property
    def answered(self) -> Counter[str]:
        """How many calls were answered with success, by session."""
        return sum((worker.answered for worker in self.workers), Counter())
