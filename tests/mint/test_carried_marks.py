# SPDX-License-Identifier: Apache-2.0
"""A new session has the warnings of its agent's earlier ones, if the policy carries marks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.agent.tasks.task import Task
from arx_caps.cli.commands.policy.ways_out import uncarried
from arx_caps.credentials.jose import KeyFile, SigningKey
from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.db.events import Event
from arx_caps.mint.policy.diff import compare
from arx_caps.mint.policy.model import Policy
from arx_caps.mint.tasks import carried_marks
from arx_verifier.clock import now_ms
from arx_verifier.errors import SettingsError
from arx_verifier.ledger.redis_ledger import RedisLedger
from tests.ledgers import look, new_ledger
from tests.mint.harness import AGENT, Harness, Holder, open_unit
from tests.mint.issuer import IDP
from tests.mint.test_mark_rows import ROWS, get, refund, with_rows
from tests.mint.test_no_exfiltration import DESCRIBED, PRESET
from tests.mint.test_tasks import verifier
from tests.mint.test_token_exchange import PAY, Shop
from tests.mint.workloads import WORKLOADS, Desk, behalf

pytestmark = [pytest.mark.servers, pytest.mark.spec("21.5", "CONTROL 2.2")]

DAY = '[marks]\ncarry = "24h"\n'


class Agent:
    """An agent of the shop, which opens one session after the other."""

    def __init__(self, shop: Shop, name: str) -> None:
        self.shop, self.key = shop, shop.harness.enrol(f"acme/{name}")
        self.held: list[tuple[Holder, str]] = []

    def open(self) -> Task:
        """Open a session, and start a task in it."""
        holder, session = self.shop.harness.open_session(self.key)
        self.held.append((holder, session["id"]))
        return Task(Bundle.parse(holder.call("POST", "/v1/tasks", PAY).json()["bundle"]))

    def end(self) -> None:
        """End the last session in the database: this mint has no store, which would end its tokens."""
        session = self.held[-1][1]
        self.shop.harness.mint.db.sessions.end(session, Event.of("session.ended", "mint", session=session))

    def carried(self) -> Any:
        """What the event of the last session says."""
        [event] = [each for each in self.shop.harness.events() if each.get("session") == self.held[-1][1]][:1]
        return event.get("carried")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("carry")
    with EmbeddedValkey(folder / "ledger") as server, open_unit(folder / "realm") as unit:
        ledger = new_ledger(server.url, unit.realm.name)
        ledger.start()
        since = look(ledger)[1]
        while now_ms() <= since:
            pass  # a session of the same millisecond counts as lost
        unit.mint.ledger = ledger
        shop = Shop(unit, with_rows(ROWS) + DAY)
        shop.verifiers = {name: verifier(unit, name, ledger=ledger) for name in shop.services}
        yield shop
        ledger.close()


@pytest.fixture(autouse=True)
def carrying(shop: Shop) -> None:
    """The policy of each test to begin with."""
    shop.harness.use(with_rows(ROWS) + DAY)


def test_a_new_session_washes_nothing(shop: Shop) -> None:
    """While the earlier one is open and once it has ended, and from there to the next one; other agents have none."""
    agent = Agent(shop, "reader")
    first = agent.open()
    assert [refund(shop, first), get(shop, first), refund(shop, first)] == ["ok", "ok", "after_mark"]
    assert agent.carried() is None
    for _ in range(2):
        agent.end()
        assert refund(shop, agent.open()) == "after_mark"
        assert agent.carried() == ["private"]
    assert refund(shop, agent.open()) == "after_mark"
    assert refund(shop, Agent(shop, "other").open()) == "ok"


def test_without_carry_a_new_session_is_clean(shop: Shop) -> None:
    """The statement of the page, also for a session that ended longer ago than the policy says."""
    agent = Agent(shop, "clean")
    assert get(shop, agent.open()) == "ok"
    shop.harness.use(with_rows(ROWS))
    assert refund(shop, agent.open()) == "ok"
    shop.harness.use(with_rows(ROWS) + DAY.replace("24h", "1ms"))
    other = Agent(shop, "later")
    assert get(shop, other.open()) == "ok"
    other.end()
    ended = now_ms()
    while now_ms() <= ended + 1:
        pass  # the time in which its marks carry
    assert refund(shop, other.open()) == "ok"


def test_a_carried_mark_names_the_call_that_set_it(shop: Shop) -> None:
    """With the time of the opening; where it may be lost, the opening itself."""
    agent = Agent(shop, "named")
    assert get(shop, agent.open()) == "ok"
    agent.open()
    ledger: Any = shop.harness.mint.ledger
    opened = 2 * now_ms()  # of a session that no ledger has lost
    assert ledger.warnings([(agent.held[-1][1], opened)], ["private", "other"]) == {"private": "orders.get orders"}
    assert ledger.warnings([("s-lost", look(ledger)[1])], ["private"]) == {"private": ""}
    assert ledger.warnings([("s-known", look(ledger)[1] + 1)], ["private"]) == {}


def test_of_too_many_sessions_each_warning_counts_as_set(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """None of them is left out unread."""
    monkeypatch.setattr(carried_marks, "MOST", 1)
    agent = Agent(shop, "busy")
    assert [refund(shop, agent.open()) for _ in range(3)] == ["ok", "ok", "after_mark"]


def test_no_session_is_opened_while_marks_to_carry_are_unknown(shop: Shop) -> None:
    """A mint whose ledger does not answer, and one without a ledger; the agent's first session needs none."""
    unit, kept = shop.harness, shop.harness.mint.ledger
    silent = RedisLedger("redis://127.0.0.1:1", unit.realm.name)
    try:
        for name, ledger in (("silent", silent), ("none", None)):
            unit.mint.ledger = ledger
            agent = Agent(shop, name)
            agent.open()
            assert _refused(unit, agent.key) == (503, "store_unavailable")
    finally:
        unit.mint.ledger = kept
        silent.close()


def _refused(unit: Harness, key: KeyFile) -> tuple[int, str]:
    holder = Holder(unit, SigningKey.generate(), None)
    answer = holder.call("POST", "/v1/sessions", {"assertion": unit.assertion(key, holder.key)})
    return answer.status_code, answer.json()["code"]


@WORKLOADS
def test_the_sessions_of_one_subject_count(unit: Harness) -> None:
    """What an agent read on behalf of one person does not bind it for another one."""
    desk = Desk(unit, AGENT)
    opened = {name: desk.ask(**(behalf(sub=name) if name else {}))[1]["session"]["id"] for name in ("ann", "bob", "")}
    for name, session in opened.items():
        whose = (IDP, name) if name else (None, None)
        assert [found for found, _ in unit.mint.db.sessions.not_ended_by(AGENT, whose, now_ms(), 9)] == [session]
    assert unit.mint.db.sessions.not_ended_by(AGENT, (None, None), 2 * now_ms(), 9) == []


def policy(*parts: str) -> Policy:
    """The policy of the shop, with rows, descriptions or terms."""
    rows, *tables = parts
    return Policy.parse(with_rows(rows) + "".join(tables), "policy.toml")


def test_the_preset_carries_for_a_day(tmp_path: Path) -> None:
    """Unless the policy has another time; rows alone carry nothing."""
    assert policy(ROWS).carry_ms == 0
    assert policy(ROWS, DAY).carry_ms == policy(PRESET, DESCRIBED).carry_ms == 86_400_000
    assert policy(PRESET, DESCRIBED, DAY.replace("24h", "0ms")).carry_ms == 0
    with pytest.raises(SettingsError, match="0ms to 7d"):
        policy(ROWS, DAY.replace("24h", "8d"))
    with pytest.raises(SettingsError, match="did you mean `carry`"):
        policy(ROWS, DAY.replace("carry", "cary"))


@pytest.mark.parametrize(
    ("old", "new", "kind"),
    [("24h", "48h", "no longer granted"), ("24h", "1h", "granted"), ("24h", None, "changed"), (None, "1h", "changed")],
)
def test_a_comparison_has_the_time(old: str | None, new: str | None, kind: str) -> None:
    """A longer one takes rights away."""
    policies = [policy(ROWS, DAY.replace("24h", time) if time else "") for time in (old, new)]
    [difference] = compare(*policies)
    assert (difference.place, difference.member, difference.kind) == ("marks", "carry", kind)


def test_the_check_warns_of_several_open_sessions() -> None:
    """They do not share what is set after they were opened."""
    one = with_rows(ROWS).replace("[session]\n", "[session]\nmax_open = 1\n") + DAY
    assert uncarried(Policy.parse(one, "policy.toml")) == []
    [warning] = uncarried(Policy.parse(one.replace("max_open = 1", "max_open = 2"), "policy.toml"))
    assert warning.startswith("session default: max_open should be 1: ")
    assert len(uncarried(policy(ROWS, DAY))) == 1
    assert uncarried(policy(ROWS)) == uncarried(policy("", DAY)) == []
