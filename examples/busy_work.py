# SPDX-License-Identifier: Apache-2.0
"""The work of the busy realm's agents: refunds, invoices, surveys, releases, campaigns, and calls that are refused."""

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from arx_caps import Agent, Approval, Session, Task
from arx_verifier import ArxError, Caveat, Macaroon, Rule

PEOPLE = ("ann.keller", "ben.okafor", "chloe.martin", "dmitri.volkov", "emine.aydin", "farid.haddad")
TOPICS = ("pricing", "competitors", "regulation", "channels", "churn", "supply")
ASPECTS = ("germany", "france", "poland", "spain", "nordics", "benelux")
CHECKS = ("sources", "figures", "summary")
SITES = ("https://www.destatis.de/energy", "https://ec.europa.eu/eurostat/data", "https://www.insee.fr/fr/statistiques")


class Desk:
    """What the agents work with.

    Args:
        keys: The folder of the agents' key files.
        urls: The address of each service, by name.
        sign_in: Returns a person's ID token.
        seed: Chooses names, amounts and the order of work.

    Attributes:
        random: Chooses what is done.
        per_second: The most calls a second; 0 for no limit.
        stop: Ends the work when it is set.
    """

    def __init__(self, keys: Path, urls: Mapping[str, str], sign_in: Callable[[str], str], seed: int) -> None:
        self._keys, self._urls, self._sign_in = keys, urls, sign_in
        self._http, self._lock, self._next = httpx.Client(timeout=60.0), threading.Lock(), 0.0
        self._agents: dict[str, Agent] = {}
        self.random, self.per_second, self.stop = random.Random(seed), 0.0, threading.Event()  # noqa: S311 - no secret

    def agent(self, path: str) -> Agent:
        """Return an enrolled agent."""
        with self._lock:
            if path not in self._agents:
                self._agents[path] = Agent.from_key_file(self._keys / f"{path.replace('/', '.')}.json")
            return self._agents[path]

    def open(self, path: str, purpose: str, person: str | None = None) -> Session:
        """Open a session, on behalf of a person if one is named."""
        token = None if person is None else self._sign_in(person)
        return self.agent(path).open_session(purpose=purpose, id_token=token)

    def call(self, task: Task, tool: str, approvals: Sequence[Approval] = (), /, **args: Any) -> int:
        """Call a tool, and return the status of the answer."""
        audience, _, verb = tool.partition(".")
        auth = task.auth(audience, approvals=approvals)
        return self.post(audience, verb, args, auth=auth).status_code

    def post(self, audience: str, verb: str, args: Mapping[str, Any], **more: Any) -> httpx.Response:
        """Send a request when it is its turn; a service that is down gives a response of 503."""
        self._wait()
        try:
            return self._http.post(f"{self._urls[audience]}/{verb}", json=args, **more)
        except httpx.TransportError:
            return httpx.Response(503)

    def _wait(self) -> None:
        if self.per_second:
            with self._lock:
                self._next = max(self._next + 1 / self.per_second, time.monotonic())
                pause = self._next - time.monotonic()
            self.stop.wait(pause)

    def order(self) -> str:
        """Return the number of an order."""
        return f"o-{self.random.randrange(1000, 1400)}"


def refund(desk: Desk) -> None:
    """Refund an order on behalf of a person: a reader looks, a payer pays."""
    person, order, amount = desk.random.choice(PEOPLE), desk.order(), desk.random.randrange(12, 96)
    agent = desk.random.choice(("acme/support/triage", "acme/support/escalations"))
    with desk.open(agent, f"refund of {order} for {person}", person) as session:
        task = session.start_task("refund", order_id=order, amount=amount)
        reader = task.delegate("acme/support/reader", tools=["orders.get", "payments.list"], ttl="5m", depth=0)
        desk.call(reader, "orders.get", order_id=order)
        desk.call(reader, "payments.list", order_id=order)
        limit = {"payments.refund": {"amount": {"range": [1, amount]}}}
        payer = task.delegate("acme/support/payer", tools=["payments.refund"], args=limit, ttl="5m", depth=0)
        if desk.random.random() < 0.25:  # a model that adds the shipping on its own account
            desk.call(payer, "payments.refund", order_id=order, amount=amount + 45)
        desk.call(payer, "payments.refund", order_id=order, amount=amount)
        if desk.random.random() < 0.15:
            desk.call(reader, "payments.refund", order_id=order, amount=amount)
        desk.call(task, "orders.note", order_id=order, text=f"refunded {amount} EUR")


def invoices(desk: Desk) -> None:
    """Match invoices, and remind customers of those that are due."""
    with desk.open("acme/billing/invoices", "reminders of overdue invoices") as session:
        task = session.start_task("invoices")
        matcher = task.delegate("acme/billing/matcher", tools=["orders.list", "payments.list"], ttl="20m")
        for person in desk.random.sample(PEOPLE, 3):
            desk.call(matcher, "orders.list", customer=person)
            desk.call(matcher, "payments.list", order_id=desk.order())
        auditor = matcher.delegate("acme/billing/auditor", tools=["payments.list"], ttl="5m", depth=0)
        desk.call(auditor, "payments.list", order_id=desk.order())
        for fee in (5, 10, desk.random.choice((15, 25))):
            desk.call(task, "payments.remind", order_id=desk.order(), fee=fee)


def survey(desk: Desk, session: Session, topics: int, aspects: int, checks: int, deeper: bool = False) -> Task:
    """Research a market with a tree of sub-agents; each does a part of what is delegated to it."""
    task = session.start_task("survey", topic="heat pumps for homes: prices, rules and competitors in six markets")
    desk.call(task, "search.web", query="heat pump market 2026")
    for topic in TOPICS[:topics]:
        first = task.delegate(f"acme/research/{topic}", ttl="1h", depth=3)
        desk.call(first, "search.web", query=f"heat pumps {topic}")
        for aspect in ASPECTS[:aspects]:
            second = first.delegate(f"acme/research/{topic}/{aspect}", tools=["search.web", "search.read"], ttl="40m")
            desk.call(second, "search.read", url=desk.random.choice(SITES))
            if desk.random.random() < 0.08:  # a page in the clear
                desk.call(second, "search.read", url="http://forum.example/heat-pumps")
            for check in CHECKS[:checks]:
                third = second.delegate(f"acme/research/{topic}/{aspect}/{check}", tools=["search.read"], ttl="20m")
                desk.call(third, "search.read", url=desk.random.choice(SITES))
                if desk.random.random() < 0.05:
                    desk.call(third, "search.note", text="a checker may read, and write nothing")
                if deeper:
                    quoted = third.delegate("acme/research/quotes", ttl="5m", depth=0)
                    desk.call(quoted, "search.read", url=desk.random.choice(SITES))
    desk.call(task, "search.note", text="the survey is complete")
    return task


def brief(desk: Desk, session: Session, topic: str, shares: Mapping[str, str]) -> Task:
    """Research a topic with a budget, of which each sub-agent gets a share, and goes on until nothing is left."""
    task = session.start_task("brief", topic=topic)
    for query in (topic, f"{topic} 2026", f"{topic}: a comparison of all offers in the six largest markets"):
        desk.call(task, "search.web", query=query)
    for name, usd in shares.items():
        worker = task.delegate(f"acme/research/{name}", budget={"usd": usd}, ttl="1h", depth=0)
        desk.call(worker, "search.web", query=f"{topic} {name}")
        for _ in range(10):
            desk.call(worker, "search.read", url=desk.random.choice(SITES))
    return task


def small_survey(desk: Desk) -> None:
    """Research three topics."""
    with desk.open("acme/research/market", "weekly survey of prices") as session:
        survey(desk, session, topics=3, aspects=3, checks=1)


def release(desk: Desk) -> None:
    """Release a version to a part of the users, then to all; a canary that may only plan and roll back watches."""
    service, version = desk.random.choice(("checkout", "catalogue", "gateway")), f"v{desk.random.randrange(40, 60)}"
    with desk.open("acme/release/conductor", f"release of {service} {version}") as session:
        task = session.start_task("release", service=service, version=version)
        canary = task.delegate("acme/release/canary", tools=["deploy.plan", "deploy.rollback"], ttl="10m", depth=0)
        for percent in (5, 25, 100):
            desk.call(canary, "deploy.plan", service=service)
            desk.call(task, "deploy.run", service=service, version=version, percent=percent)
        if desk.random.random() < 0.2:
            desk.call(canary, "deploy.run", service=service, version=version, percent=100)


def campaign(desk: Desk) -> None:
    """Send a few mails; the last goes to an address that is no customer's."""
    with desk.open("acme/sales/outreach", "autumn campaign") as session:
        task = session.start_task("campaign", list="autumn")
        for person in PEOPLE[:4]:
            desk.call(task, "mail.send", to=f"{person}@customers.example", template="offer")
        desk.call(task, "mail.send", to="press@paper.example", template="offer")


def ask_payout(desk: Desk, session: Session, amount: int, why: str) -> tuple[Task, Approval, dict[str, Any]]:
    """Ask for the approval of a payment."""
    order = desk.order()
    task = session.start_task("payout", order_id=order)
    args = {"order_id": order, "amount": amount, "iban": f"DE{desk.random.randrange(10**19, 10**20)}"}
    return task, task.ask_approval("payments.payout", args, why=why), args


def payout(desk: Desk, wait_s: float = 45.0) -> None:
    """Ask for the approval of a payment, wait for it, and pay."""
    with desk.open("acme/billing/payouts", "payments to customers") as session, suppress(ArxError):
        amount = desk.random.randrange(300, 4000)
        task, approval, args = ask_payout(desk, session, amount, "the customer returned the whole order")
        until = time.monotonic() + wait_s
        while approval.look() == "waiting" and time.monotonic() < until and not desk.stop.wait(1.0):
            desk.call(task, "payments.payout", **args)  # an impatient agent, which is refused until then
            desk.stop.wait(4.0)
        if approval.state == "approved":
            desk.call(task, "payments.payout", [approval], **args)


def misuse(desk: Desk) -> None:
    """Abuse tokens in the ways that a stolen or manipulated agent may try; the services refuse each."""
    with desk.open("acme/support/escalations", "complaint about o-1013") as session:
        task = session.start_task("refund", order_id="o-1013", amount=60)
        short = task.delegate("acme/support/reader", ttl="1s")
        url_args = {"order_id": "o-1013"}
        signed = desk.post("orders", "get", url_args, auth=task.auth("orders")).request.headers["Authorization"]
        for audience, verb in (("orders", "get"), ("payments", "list")):  # replayed, then for another service
            desk.post(audience, verb, url_args, headers={"Authorization": signed})
        token = Macaroon.parse(task.tokens["orders"])
        widened = token.attenuate(Caveat(allow=(Rule(tool="*"),)))
        for altered in (widened, Macaroon(token.parts()[0], token.attenuate(Caveat(depth=0)).parts()[1])):
            copy = Task(task.bundle.with_tokens({"orders": altered}))
            desk.post("orders", "cancel" if altered is widened else "get", url_args, auth=copy.auth("orders"))
        desk.post("orders", "list", {"customer": "ann.keller"})  # without a token
        desk.call(task, "payments.refund", order_id="o-1013", amount=4900)
        desk.call(task, "orders.get", order_id="o-1014")
        desk.stop.wait(max(0.0, short.expires_at / 1000 - time.time()) + 0.1)
        with suppress(ArxError):
            desk.call(short, "orders.get", order_id="o-1013")
        task.finish()
        desk.call(task, "orders.get", order_id="o-1013")


def shifts(desk: Desk) -> Iterator[Callable[[Desk], None]]:
    """Yield pieces of work without end, in proportion to how often each occurs."""
    jobs = (refund, invoices, small_survey, release, payout, misuse)
    while True:
        yield desk.random.choices(jobs, weights=(40, 15, 20, 12, 3, 2))[0]
