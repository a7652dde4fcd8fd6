# SPDX-License-Identifier: Apache-2.0
"""Make a realm on this machine with a busy, realistic history, and keep it busy: something to look at.

``python busy_realm.py --rate 20`` writes one JSON line when the history is made: the mint's URL, the folder, ids by
name.  It ends with SIGINT or SIGTERM.  Names and amounts depend on ``--seed`` alone.
"""

import argparse
import contextlib
import json
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
from busy_service import COSTS, VERBS
from busy_work import Desk, ask_payout, brief, campaign, invoices, misuse, refund, release, shifts, survey
from joserfc import jwt
from joserfc.jwk import ECKey

from arx_caps.demo.realm import DemoRealm, free_addresses, leave
from arx_verifier import ArxError

HERE = Path(__file__).resolve().parent
WORKERS = 10  # pieces of work at the same time
AGENTS = {  # owner and purpose
    "acme/support/triage": ("support@acme.example", "answers customers, refunds small amounts"),
    "acme/support/escalations": ("support@acme.example", "complaints that triage passes on"),
    "acme/billing/invoices": ("billing@acme.example", "matches invoices, sends reminders"),
    "acme/billing/payouts": ("billing@acme.example", "pays customers, each payment approved"),
    "acme/billing/claims": ("billing@acme.example", "settles claims, two operators approve"),
    "acme/research/lead": ("research@acme.example", "plans surveys and delegates them"),
    "acme/research/market": ("research@acme.example", "weekly prices of competitors"),
    "acme/release/conductor": ("platform@acme.example", "rolls out versions step by step"),
    "acme/release/nightly": ("platform@acme.example", "rebuilds the catalogue at night"),
    "acme/sales/outreach": ("sales@acme.example", "writes to customers"),
    "acme/ops/oncall": ("platform@acme.example", "first look at alarms"),
    "acme/hr/onboarding": ("people@acme.example", "accounts of new colleagues"),
}
OPERATORS = {
    "ada": "admin",
    "grace": "responder",
    "ivan": "approver",
    "nina": "read-only",
    "pager": "kill-only",
    "petra": "policy",
}
CHANGES = (  # of the policy, after some work
    ("amount = { range = [1, 150] }", "amount = { range = [1, 100] }"),
    ("percent = { range = [1, 100] }", "percent = { range = [1, 50] }"),
    ('one_of = ["news", "offer", "survey"]', 'one_of = ["news", "offer"]'),
    ("max_open = 60", "max_open = 80"),
    ('need = 2, ttl = "1h"', 'need = 2, ttl = "30m"'),
)


class BusyRealm:
    """A realm with its services, and the operators' part of its history.

    Args:
        folder: For its files.
        stack: Ends its processes.
        port: Of the mint.
        seed: Chooses names and amounts.
    """

    def __init__(self, folder: Path, stack: contextlib.ExitStack, port: int | None, seed: int) -> None:
        self.realm, self.folder = DemoRealm(folder / "realm", stack), folder
        addresses = free_addresses(len(VERBS) + 1)
        self.mint = f"http://127.0.0.1:{port}" if port else addresses.pop()
        self.urls = dict(zip(VERBS, addresses, strict=False))
        self._person_key = ECKey.generate_key("P-256", {"kid": "2026-11"})
        self.keys = folder / "keys"
        self.keys.mkdir(mode=0o700)
        self.desk = Desk(self.keys, self.urls, self.sign_in, seed)

    def sign_in(self, person: str) -> str:
        """Return an ID token, as the people's identity provider would sign it."""
        now = int(time.time())
        claims = {"iss": "https://id.acme.example", "aud": "arx", "iat": now, "exp": now + 3600, "sub": person}
        return jwt.encode({"alg": "ES256", "kid": self._person_key.kid}, claims, self._person_key)

    def as_operator(self, name: str, *words: str | Path) -> str:
        """Run ``arx`` as one of the operators."""
        return self.realm.arx(*words, "--operator-key", self.keys / f"{name}.key")

    def start(self) -> None:
        """Make the realm, and start the mint and the services."""
        self.realm.arx("init", self.realm.folder, "--name", "acme", "--issuer", self.mint)
        with (self.realm.folder / "realm.toml").open("a") as file:  # everything comes from one address
            file.write('key_refresh = "5s"\nagent_rate = 0\naddress_rate = 0\n')
            hosts = [url.partition("//")[2] for url in self.urls.values()]
            file.write(f"webhook_hosts = {json.dumps(hosts)}\n")
        (self.realm.folder / "id.jwks.json").write_text(json.dumps({"keys": [self._person_key.as_dict(private=False)]}))
        (self.realm.folder / "policy.toml").write_text(self.policy())
        next(self.realm.start("-m", "arx_caps.cli", "up"))  # it writes a line when it is ready
        with ThreadPoolExecutor(3) as threads:
            list(threads.map(self.enrol_agent, AGENTS))
            list(threads.map(self.enrol_operator, OPERATORS))
            list(threads.map(self.start_service, VERBS))
        self.realm.arx("service", "enrol", "archive", "--out", self.folder / "archive.json")  # it never runs
        for name, form in (("orders", "json"), ("mail", "slack")):
            secret = self.folder / f"{name}.alerts"
            self.realm.arx("webhook", "add", f"{self.urls[name]}/alerts", "--format", form, "--out", secret)
        with httpx.Client(transport=httpx.HTTPTransport(retries=8)) as client:
            for url in self.urls.values():
                client.get(url)  # it tries again until the service listens

    def policy(self, *, changed: bool = False) -> str:
        """Return the policy of the beginning, or the one after the change."""
        text = (HERE / "busy_policy.toml").read_text()
        for name, url in self.urls.items():
            text = text.replace(f'"{name.upper()}"', f'"{url}"')
        for old, new in CHANGES if changed else ():
            text = text.replace(old, new)
        return text

    def enrol_agent(self, path: str) -> None:
        """Enrol one agent."""
        owner, purpose = AGENTS[path]
        about = ("--owner", owner, "--purpose", purpose, "--model", "large-7", "--version", "2026.11")
        self.realm.arx("agent", "enrol", path, "--key-out", self.keys / f"{path.replace('/', '.')}.json", *about)

    def enrol_operator(self, name: str) -> None:
        """Enrol one operator."""
        self.realm.arx("operator", "enrol", name, "--role", OPERATORS[name], "--key-out", self.keys / f"{name}.key")

    def start_service(self, name: str) -> None:
        """Enrol a service, and start it."""
        file = self.folder / f"{name}.json"
        self.realm.arx("service", "enrol", name, "--out", file, "--journal", self.folder / "journals" / name)
        if name in COSTS:
            mode = "leased" if name == "payments" else "strict"
            file.write_text(json.dumps(json.loads(file.read_text()) | {"costs": COSTS[name], "ledger_mode": mode}))
        port = self.urls[name].rpartition(":")[2]
        self.realm.start(HERE / "busy_service.py", name, "--service-file", file, "--port", port, name=name)

    def history(self) -> dict[str, Any]:
        """Live through some eventful minutes; return the ids of what remains."""
        desk, made = self.desk, dict[str, Any]()
        self.realm.arx("key", "create")
        for job in (refund, invoices, campaign, refund, release, refund, misuse, refund, invoices, refund):
            job(desk)
        for name, size in (("tree_small", (3, 3, 1)), ("tree_medium", (4, 3, 2)), ("tree_large", (6, 6, 3))):
            session = desk.open("acme/research/lead", f"survey of the heat pump market ({name[5:]})")
            survey(desk, session, *size, deeper=name == "tree_small")
            made[name] = session.id
        made |= self.budgets()
        made |= self.approvals()
        self.change_policy()
        made["frozen"] = self.freezes()
        made["killed"], made["kill"] = self.kills()
        self.realm.arx("key", "rotate")
        self.realm.arx("key", "create")  # the next one, which mints nothing yet
        self.realm.arx("agent", "deactivate", "acme/hr/onboarding", "--yes")
        for job in (refund, release, refund, invoices):
            job(desk)
        self.realm.processes["mail"].kill()  # its verifier falls silent, and takes no notifications
        refused = self.realm.arx(
            "audit", "trail", "--reason", "argument_not_allowed", "--flat", "--limit", "1", "--json"
        )
        made["refused"] = json.loads(refused)["records"][0]["index"]
        return made

    def budgets(self) -> dict[str, Any]:
        """Let agents spend, some of them all that they have; top up one pool; return its id and its session."""
        desk = self.desk
        for agent, topic, shares in (
            ("acme/research/market", "prices of wall boxes", {"pricing": "0.60", "channels": "0.41"}),
            ("acme/research/market", "tariffs for feeding in", {"regulation": "0.29"}),
            ("acme/research/lead", "suppliers of compressors", {"supply": "1.10", "competitors": "0.29"}),
        ):
            session = desk.open(agent, f"brief: {topic}")
            brief(desk, session, topic, shares)
        shown = self.realm.arx("budget", "list", "--session", session.id, "--json")
        pool = next(one["id"] for one in json.loads(shown)["pools"] if one["pool"] == "competitors")
        why = ("--reason", "the second page of results is needed", "--yes")
        self.realm.arx("budget", "top-up", pool, "0.25", "usd", *why)
        return {"spender": session.id, "pool": pool}

    def approvals(self) -> dict[str, Any]:
        """Ask for approvals; some are given, used, denied and withdrawn, some wait."""
        desk = self.desk
        session = desk.open("acme/billing/payouts", "payments of the day")
        reasons = (
            "two of three pumps arrived broken",
            "paid twice",
            "withdrawal within 14 days",
            "goodwill after delay",
        )
        asked = [ask_payout(desk, session, 240 * (number + 2), why) for number, why in enumerate(reasons)]
        task, approval, args = asked[0]
        desk.call(task, "payments.payout", **args)  # before it is approved
        self.as_operator("ivan", "approval", "approve", approval.id, "--yes", "--why", "photos checked")
        approval.wait(timeout_s=60.0)
        for _ in range(2):  # the second call is refused: an approval is for one call
            desk.call(task, "payments.payout", [approval], **args)
        self.as_operator("ivan", "approval", "deny", asked[1][1].id, "--why", "the bank shows one payment only")
        claims = desk.open("acme/billing/claims", "claims of the week")
        task = claims.start_task("settle", claim="c-2071")
        lines = [{"sku": "HP-900", "pieces": 2}, {"sku": "VALVE-15", "pieces": 8}]
        settle = {"claim": "c-2071", "amount": 18_400, "lines": lines}
        half = task.ask_approval("payments.settle", settle, why="settlement out of court, agreed with the insurer")
        self.as_operator("ada", "approval", "approve", half.id, "--yes", "--why", "agreed")
        return {"waiting": asked[2][1].id, "half": half.id, "payouts": session.id}

    def change_policy(self) -> None:
        """Put the second policy in force."""
        file = self.folder / "policy.toml"
        file.write_text(self.policy(changed=True))
        self.as_operator("petra", "policy", "load", file, "--yes")

    def freezes(self) -> str:
        """Freeze an agent for good and a session for a moment; both try a call."""
        desk = self.desk
        night = desk.open("acme/release/nightly", "rebuild of the catalogue")
        task = night.start_task("release", service="catalogue", version="v41")
        desk.call(task, "deploy.plan", service="catalogue")
        why = ("--reason", "unplanned rollout at noon: under investigation", "--yes")
        self.as_operator("grace", "freeze", "agent:acme/release/nightly", *why)
        desk.call(task, "deploy.plan", service="catalogue")
        watch = desk.open("acme/billing/invoices", "monthly statement")
        task = watch.start_task("invoices")
        desk.call(task, "payments.list", order_id="o-1100")
        self.as_operator("grace", "freeze", f"session:{watch.id}", "--reason", "is this one of ours?", "--yes")
        desk.call(task, "payments.list", order_id="o-1101")
        self.as_operator("grace", "thaw", f"session:{watch.id}", "--reason", "it is: month end", "--yes")
        desk.call(task, "payments.list", order_id="o-1102")
        return night.id

    def kills(self) -> tuple[str, int]:
        """Kill an agent that is at work, and a session; return the session and the number of the first kill."""
        desk = self.desk
        session = desk.open("acme/sales/outreach", "second autumn campaign")
        task = session.start_task("campaign", list="autumn-2")
        desk.call(task, "mail.send", to="ann.keller@customers.example", template="news")
        kill = self.realm.kill("agent:acme/sales/outreach", "mails to people who have not agreed")
        desk.call(task, "mail.send", to="ben.okafor@customers.example", template="news")
        other = desk.open("acme/support/escalations", "refund for a customer who cannot be identified")
        task = other.start_task("refund", order_id="o-1200", amount=90)
        desk.call(task, "orders.get", order_id="o-1200")
        self.realm.kill(f"session:{other.id}", "the customer denies this order")
        desk.call(task, "orders.get", order_id="o-1200")
        return other.id, kill["seq"]

    def work(self) -> Iterator[threading.Thread]:
        """Start threads that work until ``desk.stop`` is set."""
        jobs, lock = shifts(self.desk), threading.Lock()

        def shift() -> None:
            while not self.desk.stop.is_set():
                with lock:
                    job = next(jobs)
                try:
                    job(self.desk)
                except ArxError:  # killed or frozen by an operator who looks at this realm, or a mint that restarts
                    self.desk.stop.wait(1.0)

        for _ in range(WORKERS):
            thread = threading.Thread(target=shift, daemon=True)
            thread.start()
            yield thread


def main() -> None:
    """Make the realm, report, and work until a signal."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--folder", type=Path, help="an empty or new folder for the realm, which stays [a temporary one]"
    )
    parser.add_argument("--port", type=int, help="port of the mint [any]")
    parser.add_argument("--rate", type=float, default=20.0, help="decisions a second once the history is made [20]")
    parser.add_argument("--seed", type=int, default=7, help="chooses names and amounts [7]")
    given = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(number, leave)
    with contextlib.ExitStack() as stack:
        folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="arx-busy-")))
        folder.mkdir(parents=True, exist_ok=True)
        busy = BusyRealm(folder, stack, given.port, given.seed)
        busy.start()
        made = busy.history()
        about = {"mint": busy.mint, "home": str(busy.realm.folder), "keys": str(busy.keys), "urls": busy.urls}
        sys.stdout.write(json.dumps(about | made) + "\n")
        sys.stdout.flush()
        if not given.rate:
            signal.pause()
        busy.desk.per_second = given.rate
        stack.callback(busy.desk.stop.set)
        for thread in list(busy.work()):
            thread.join()


if __name__ == "__main__":
    main()
