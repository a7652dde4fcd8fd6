# SPDX-License-Identifier: Apache-2.0
"""What operators see of sessions: lists with counts, and the delegation tree with what each delegation removed."""

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.agent.tasks.task import Task
from arx_caps.mint.db.database import PAGE
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.work.tasks import TASK_ROWS
from arx_caps.mint.db.tables import TASKS
from arx_caps.mint.keys.log_key import read_log_key
from arx_verifier.journal.decision import Decision, InMemoryDecisions
from arx_verifier.journal.record import ChainFacts
from arx_verifier.request import AccessRequest
from arx_verifier.token.holder import HolderKey
from arx_verifier.token.keyring import KeyRing
from arx_verifier.verification.verifier import Verifier
from tests.audit.batches import batch_of, decision, facts
from tests.cli.helpers import arx
from tests.mint.harness import AGENT, LOOKUP, Harness, now_ms
from tests.mint.test_pagination import add_sessions, walk

pytestmark = [pytest.mark.realm(log=True), pytest.mark.spec("CONTROL 1.1")]


class Work:
    """A session with a task, whose decisions a service sends to the log."""

    def __init__(self, unit: Harness, **asked: Any) -> None:
        self.unit = unit
        self.agent, self.session = unit.open_session(unit.enrol(), **asked)
        answer = self.agent.call("POST", "/v1/tasks", LOOKUP)
        self.row = answer.json()["task"]
        self.task = Task(Bundle.parse(answer.json()["bundle"]))
        self.sink = InMemoryDecisions()
        kid, key = unit.mint.key_schedule.audience_key("orders")
        keys = KeyRing({kid: key}, realm="acme")
        self.verifier = Verifier(audience="orders", keys=keys, epochs=unit.epochs, decisions=self.sink)

    def call(self, task: Task, tool: str = "orders.get", times: int = 1, order: str = "o-1") -> None:
        """Call a tool, and let the service decide."""
        for _ in range(times):
            args = {"order_id": order}
            self.verifier.decide(task.call_token("orders", tool, args), AccessRequest(tool, args, now_ms(), "10.0.0.1"))

    def ship(self) -> None:
        """Put all decisions into the log, as one run of the service."""
        send(self.unit, self.sink.decisions)

    def tree(self) -> list[dict[str, Any]]:
        """The tree, as an operator gets it."""
        return tree_of(self.unit, self.session["id"])


def send(unit: Harness, decisions: Sequence[Decision], boot: str = "b0b0b0b0b0b0") -> None:
    unit.mint.log.store.take(batch_of(decisions, boot=boot), None)
    unit.mint.log.step()


def tree_of(unit: Harness, session: str) -> list[dict[str, Any]]:
    answer = unit.operator().call("GET", f"/v1/sessions/{session}/tree")
    assert answer.status_code == 200, answer.text
    assert answer.json()["complete"]
    nodes: list[dict[str, Any]] = answer.json()["nodes"]
    return nodes


def listed(unit: Harness, **query: str) -> dict[str, Any]:
    answer = unit.operator().call("GET", "/v1/sessions", None, **query)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_a_tree_shows_what_each_delegation_removed(unit: Harness) -> None:
    """Agent, task and each delegation, with the counts of their own calls and the caveats that were added."""
    work = Work(unit)
    worker = work.task.delegate("acme/worker", tools=["orders.get"], ttl="60s")
    helper = worker.attenuate(depth=1).delegate("acme/helper")
    work.call(work.task)
    work.call(helper, times=2)
    work.call(helper, tool="orders.list")
    work.ship()
    session, task, first, second = work.tree()
    assert [node["parent"] for node in (session, task, first, second)] == [None, 0, 1, 2]
    assert (session["target"], task["target"]) == (f"session:{work.session['id']}", f"task:{work.row['id']}")
    assert (task["template"], task["allowed"], task["denied"], task["last_tool"]) == ("lookup", 1, 0, "orders.get")
    # The worker made no call of its own: what it was given is in the records of its helper.
    assert (first["kind"], first["name"], first["allowed"], first["last_tool"]) == ("link", "acme/worker", 0, None)
    assert first["caveats"][0]["allow"] == [{"tool": "orders.get"}]
    assert first["removes"][0] == "every tool but orders.get with any arguments"
    assert first["removes"][1].startswith("all time from 20")
    assert first["expires_at"] == first["caveats"][0]["exp"] < task["expires_at"]
    assert (second["removes"], second["expires_at"]) == (["delegations after the next 1"], first["expires_at"])
    assert (second["allowed"], second["denied"], second["last_tool"]) == (2, 1, "orders.list")
    assert {node["state"] for node in work.tree()} == {"open"}


def test_states_follow_kills_and_freezes_down_the_tree(unit: Harness) -> None:
    """A freeze or kill shows at the node and at all below it, and nowhere else."""
    work = Work(unit)
    worker = work.task.delegate("acme/worker")
    for holder in (worker.delegate("acme/helper"), work.task.delegate("acme/other"), worker):
        work.call(holder)
    work.ship()

    def states() -> dict[str, str]:
        return {node["name"] if node["kind"] == "link" else node["kind"]: node["state"] for node in work.tree()}

    every = dict.fromkeys(("session", "task", "acme/worker", "acme/helper", "acme/other"), "open")
    assert states() == every
    unit.epochs.freeze("agent:acme/worker")
    assert states() == every | {"acme/worker": "frozen", "acme/helper": "frozen"}
    unit.epochs.thaw("agent:acme/worker")
    helper = next(node for node in work.tree() if node["name"] == "acme/helper")
    unit.epochs.kill(helper["target"])
    assert states() == every | {"acme/helper": "killed"}
    unit.epochs.kill(f"task:{work.row['id']}")
    assert states() == dict.fromkeys(every, "killed") | {"session": "open"}
    unit.mint.db.sessions.end(work.session["id"], Event.of("session.ended", "test", session=work.session["id"]))
    assert set(states().values()) == {"ended"}


def test_a_delegation_that_is_over_is_expired(unit: Harness) -> None:
    """A delegation's own end shows, however long its task goes on."""
    work = Work(unit)
    chain = facts(work.session["id"], work.row["id"], "acme/worker", agent=AGENT, caveats=(('{"exp":7,"to":"x"}',),))
    send(unit, [decision(1, chain)])
    assert [(node["name"], node["state"]) for node in work.tree()][-1] == ("acme/worker", "expired")


def test_another_services_record_is_not_in_the_tree(unit: Harness) -> None:
    """A record that names the session under another agent makes no node, and does not count."""
    work = Work(unit)
    work.call(work.task)
    work.ship()
    before, row = work.tree(), listed(unit, counts="true")
    send(
        unit, [decision(1, facts(work.session["id"], work.row["id"], "acme/worker", agent="evil/bot"))], "c0c0c0c0c0c0"
    )
    assert work.tree() == before
    assert listed(unit, counts="true")["activity"] == row["activity"]


def test_a_task_is_known_however_many_came_after_it(unit: Harness) -> None:
    """A session that runs for long: the tree has the template of its first task."""
    work = Work(unit)
    work.call(work.task)
    work.ship()
    row = unit.mint.db.tasks.find(work.row["id"])
    assert row is not None
    with unit.mint.db.write() as c:
        later = TASK_ROWS.values(row) | {"started_at": row.started_at + 1}
        c.execute(insert(TASKS), [later | {"id": f"t-{n}", "link": f"l{n}"} for n in range(PAGE)])
    assert [node["template"] for node in work.tree()] == [None, "lookup"]


def test_erased_and_unreadable_caveats_are_null(unit: Harness) -> None:
    """Erased, or recorded by a service that writes nonsense: the tree is there, without what was removed."""
    work = Work(unit)
    texts = ("[]", "{", "[" * 5000, '{"later":1}', "")
    for number, text in enumerate(texts):
        chain = facts(work.session["id"], work.row["id"], f"acme/w{number}", agent=AGENT, caveats=((text,),))
        send(unit, [decision(1, chain)], f"b{number}")
    links = [node for node in work.tree() if node["kind"] == "link"]
    assert [node["caveats"] for node in links] == [None, None, None, [{"later": 1}], None]
    assert "cannot read" in links[3]["removes"][0]
    with unit.mint.log.store._engine.begin() as c:
        c.exec_driver_sql("UPDATE log_record SET body = NULL")
    assert {node["removes"] is None for node in work.tree()} == {True}
    assert [node["name"] for node in work.tree() if node["kind"] == "link"] == [node["name"] for node in links]


def test_a_delegations_own_record_says_what_it_removed(unit: Harness) -> None:
    """What services recorded of the holders below counts only without a readable record of its own."""
    work = Work(unit)

    def chain(*caveats: str, names: str = "abc") -> ChainFacts:
        named = [f"acme/{name}" for name, _ in zip(names, caveats, strict=False)]
        steps = tuple((caveat,) for caveat in caveats)
        return facts(work.session["id"], work.row["id"], *named, agent=AGENT, caveats=steps)

    own, other, third = '{"exp":7}', '{"exp":8}', '{"exp":9}'
    made = [chain(own), chain(other, own), chain(third, other, own), chain("{", names="d"), chain(own, own, names="de")]
    for places in (range(5), range(4, -1, -1)):
        send(unit, [decision(number, made[place]) for number, place in enumerate(places, 1)], f"b{places.start}")
        ends = {node["name"]: node["caveats"][0]["exp"] for node in work.tree() if node["kind"] == "link"}
        assert ends == {"acme/a": 7, "acme/b": 7, "acme/c": 7, "acme/d": 7, "acme/e": 7}


def test_a_list_has_counts(unit: Harness) -> None:
    """Each session has its templates, calls, delegations and last tool; the first page has the total."""
    work = Work(unit)
    for name in ("acme/a", "acme/b"):
        work.call(work.task.delegate(name).delegate(f"{name}/below"), times=2)
    work.call(work.task, tool="orders.list")
    work.ship()
    add_sessions(unit, 3)
    found = listed(unit, counts="true")
    assert found["total"] == {"sessions": 4, "exact": True}
    own = found["activity"][work.session["id"]]
    assert own.pop("last_at") > 0
    assert own == {
        "templates": {"lookup": 1},
        "allowed": 4,
        "denied": 1,
        "delegations": 4,
        "depth": 2,
        "last_tool": "orders.list",
    }
    quiet = {"templates": {}, "allowed": 0, "denied": 0, "delegations": 0, "depth": 0}
    assert found["activity"]["s-0000000000000001"] == quiet | {"last_at": None, "last_tool": None}
    assert "total" not in listed(unit, counts="true", state="open", limit="2")
    assert listed(unit, counts="true", state="open")["total"] == {"sessions": 4, "exact": True}
    assert "activity" not in listed(unit)


def test_records_that_no_checkpoint_has_count(unit: Harness) -> None:
    """The counts of a list have the newest records, which the totals of nodes do not have yet."""
    work = Work(unit)
    work.call(work.task, times=3)
    unit.mint.log.store.take(batch_of(work.sink.decisions), None)
    assert listed(unit, counts="true")["activity"][work.session["id"]]["allowed"] == 3
    assert [node["allowed"] for node in work.tree() if node["kind"] == "task"] == [3]


def test_sessions_are_found_by_text_and_branch(unit: Harness) -> None:
    """By a text in agent, purpose or subject, whatever its case; by an id; by an agent and those below it."""
    unit.enrol()
    other = unit.enrol("acme/supporters")
    ids = add_sessions(unit, 3, purpose="Refund for 100% of _Order_")
    unit.open_session(other, purpose="other")
    operator = unit.operator()

    def found(**query: str) -> list[str]:
        return [row["id"] for row in walk(operator, "/v1/sessions", "sessions", **query)]

    for text in ("refund for 100%", "_order_", "SUPPORT/TRIAGE"):
        assert found(text=text, limit="2") == ids[::-1], text
    assert found(text="100_") == found(text="nothing") == []
    assert (found(text=ids[1]), len(found(text="s-000"))) == ([ids[1]], 3)
    assert found(agent="acme/support/**") == ids[::-1]
    assert (len(found(agent="acme/**")), len(found(agent="acme/supporters/**")), found(agent="acme/sup/**")) == (
        4,
        1,
        [],
    )
    assert listed(unit, counts="true", text="refund")["total"] == {"sessions": 3, "exact": True}
    for wrong in ("acme/*", "**", "Acme", ""):
        assert operator.call("GET", "/v1/sessions", None, agent=wrong).status_code == 400


def test_an_agent_sees_no_tree(unit: Harness) -> None:
    """The tree names holders that its agent may not know; an unknown session has none."""
    work = Work(unit)
    answer = work.agent.call("GET", f"/v1/sessions/{work.session['id']}/tree")
    assert (answer.status_code, answer.json()["code"]) == (403, "wrong_caller")
    assert unit.operator().call("GET", "/v1/sessions/s-unknown/tree").json()["code"] == "not_found"


@pytest.mark.spec("16.5", "LOG 1.4")
def test_a_bound_tasks_tree_names_the_keys_and_an_outsider_checks_them(unit: Harness, tmp_path: Path) -> None:
    """Of the agent and each delegation, by the record of a call below; its proof checks with public keys alone."""
    policy = unit.realm.policy_path.read_text()
    unit.use(policy.replace("[task.lookup]\n", '[task.lookup]\nbinding = "bound"\n'))
    work = Work(unit)
    own, worker, helper = work.agent.key, HolderKey.generate(), HolderKey.generate()
    task = Task(work.task.bundle, key=own)
    work.call(task.delegate("acme/worker", key=worker).delegate("acme/helper", key=helper))
    work.ship()
    keys = [own.public.x, worker.public, helper.public]
    assert [(node["kind"], node["key"]) for node in work.tree()] == [
        ("session", None),
        *zip(("task", "link", "link"), keys, strict=True),
    ]
    proof = tmp_path / "proof"
    index = unit.mint.log.store.find("b0b0b0b0b0b0", 1)[0]
    proof.write_bytes(unit.operator().call("GET", f"/v1/audit/proofs/{index}").content)
    vkey = str(read_log_key(unit.realm.log_key_path))
    checked = arx("audit", "verify", proof, "--key", vkey, "--json").json
    assert [(each["by_key"], each["key"]) for each in checked["delegations"]] == [*itertools.pairwise(keys)]
