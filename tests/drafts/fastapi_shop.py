# SPDX-License-Identifier: Apache-2.0
"""A FastAPI application under load: its calls are drafted, and the draft is put in force and tried."""

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from arx_caps.agent import Agent, Task
from tests.cli.live import Live, live_realm
from tests.cli.test_service_keys import joined
from tests.drafts.broad import record_arguments, write_broad_policy
from tests.servers import free_ports, until

pytestmark = pytest.mark.servers
SKUS = ("kettle", "grinder", "filter", "mug", "scale", "press", "tamper", "jug", "cloth", "spoon", "tray")
Call = tuple[str, str, dict[str, Any] | None]


def refund(n: int) -> list[Call]:
    """What a support agent does with one order."""
    order, amount = f"o-{1000 + 7 * n}", 5 + n * 3 % 60
    calls: list[Call] = [("GET", f"/orders/{order}", None), ("GET", f"/orders/{order}/lines", None)]
    calls += [("GET", f"/orders/{order}?expand=true", None)] if n % 3 == 0 else []
    calls += [("POST", f"/orders/{order}/refund", {"amount": amount, "note": f"it came late, {n % 11} days"})]
    calls += [("PATCH", f"/orders/{order}", {"note": "refunded"})]
    return [
        *calls,
        ("POST", "/mail", {"to": f"user{n}@buyers.example", "subject": f"Your order {order}", "body": "Hi"}),
    ]


def place(n: int) -> list[Call]:
    """What a clerk does for one customer."""
    lines = [{"sku": SKUS[(n + i) % 11], "pieces": 1 + (n + i) % 4} for i in range(1 + n % 3)]
    calls: list[Call] = [
        ("GET", f"/customers/{40 + n}", None),
        ("GET", f"/products?tag={('tea', 'coffee')[n % 2]}", None),
    ]
    calls += [("GET", f"/products/{line['sku']}", None) for line in lines]
    calls += [("POST", "/orders", {"customer_id": 40 + n, "lines": lines})]
    return calls


def report(n: int) -> list[Call]:
    """What a reporting agent does in a night."""
    calls: list[Call] = [("GET", f"/reports/2026-{1 + n % 12:02}-{1 + n:02}?currency=EUR", None)]
    calls += [("GET", f"/stock?warehouse={name}", None) for name in ("north", "south", "west")]
    return calls


WORK = {
    "acme/support/triage": ("a refund", refund),
    "acme/desk/clerk": ("an order", place),
    "acme/night": ("a report", report),
}
SESSIONS = 24  # of each agent


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[tuple[Live, str]]:
    """A realm with a broad policy, and the shop, which records arguments."""
    ports = free_ports(2)
    origin = f"http://127.0.0.1:{ports[1]}"
    with live_realm(tmp_path / "realm", ports[0]) as live:
        write_broad_policy(tmp_path / "broad.toml", "shop", origin)
        live.ok("policy", "load", tmp_path / "broad.toml")
        for agent in WORK:
            live.ok("agent", "enrol", agent, "--key-out", tmp_path / f"{agent.rpartition('/')[2]}.key")
        file, _ = joined(live, tmp_path, "shop")
        record_arguments(file, "shop")
        process = subprocess.Popen([sys.executable, "-m", "tests.drafts.shop", str(file), str(ports[1])])
        try:
            until(lambda: answers(origin))
            yield live, origin
        finally:
            process.terminate()
            process.wait(20)


def answers(origin: str) -> bool:
    try:
        return httpx.get(f"{origin}/healthz").is_success
    except httpx.TransportError:
        return False


def work(
    folder: Path, origin: str, agent: str, tasks: dict[str, tuple[str, tuple[str, ...]]]
) -> list[tuple[Call, int]]:
    """Do all sessions of an agent, and return each call with its status."""
    purpose, calls_of = WORK[agent]
    template, params = tasks[agent]

    def session(n: int) -> list[tuple[Call, int]]:
        calls = calls_of(n)
        values: dict[str, Any] = {
            "order_id": f"o-{1000 + 7 * n}",
            "customer_id": 40 + n,
            "day": f"2026-{1 + n % 12:02}-{1 + n:02}",
        }
        values |= {"to": f"user{n}@buyers.example", "tag": ("tea", "coffee")[n % 2]}
        key = folder / f"{agent.rpartition('/')[2]}.key"
        with Agent.from_key_file(key) as own, own.open_session(purpose=purpose) as opened:
            task: Task = opened.start_task(template, **{name: values[name] for name in params})
            with httpx.Client(base_url=origin, auth=task.auth(), timeout=60) as client:
                done = [(call, client.request(call[0], call[1], json=call[2]).status_code) for call in calls]
                if template != "all":  # and in the same task what it never did
                    odd = ("DELETE", "/orders/o-1007", None), ("GET", f"/orders/x-{n}", None)
                    done += [(call, client.request(call[0], call[1]).status_code) for call in odd]
        return done

    with ThreadPoolExecutor(4) as pool:
        return [each for done in pool.map(session, range(SESSIONS)) for each in done]


def test_the_draft_of_a_shop_lets_its_agents_work(shop: tuple[Live, str], tmp_path: Path) -> None:
    """
    The same work is allowed under the draft, each call of it; what was never done is refused.
    """
    live, origin = shop
    made = 0
    for agent in WORK:
        statuses = work(tmp_path, origin, agent, dict.fromkeys(WORK, ("all", ())))
        made += len(statuses)
        assert [each for each in statuses if each[1] >= 300] == []
    live.until(lambda: live.run("policy", "draft", "--from", "1h")[1].get("calls") == made)
    draft, questions = tmp_path / "draft.toml", tmp_path / "questions.toml"
    answer = live.ok("policy", "draft", "--from", "1h", "--out", draft, "--questions", questions)
    print(answer["policy"])
    assert (answer["calls"], answer["kept"], answer["refused"]) == (made, made, 0)
    assert live.ok("policy", "check", draft)["tasks"] == ["clerk-an-order", "night-a-report", "triage-a-refund"]
    assert live.ok("policy", "test", draft, questions)["failed"] == 0
    assert live.ok("policy", "gap", draft, "--from", "1h")["unused"] == []
    live.ok("policy", "load", draft, "--yes")
    tasks = {each["agents"][0]: (each["name"], tuple(each["params"])) for each in answer["templates"]}
    for agent in WORK:
        for (method, path, _), status in work(tmp_path, origin, agent, tasks):
            is_odd = method == "DELETE" or path.startswith("/orders/x-")
            assert (status >= 300) == is_odd, (agent, method, path, status)
