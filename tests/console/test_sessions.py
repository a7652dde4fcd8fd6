# SPDX-License-Identifier: Apache-2.0
"""*Sessions*, *Session* and *Agent*: what they show of a real mint, whatever text holders chose."""

import gc
import re
from urllib.parse import quote

import pytest

from arx_caps.console.timeline import TimelineRecord
from arx_caps.credentials.jose import KeyFile
from arx_caps.mint.api.routes.work.session_tree import TreeNode
from tests.audit.batches import decision, facts
from tests.console.harness import Browser, operator_with, sign_in
from tests.console.html import require_well_formed
from tests.mint.harness import AGENT, Harness
from tests.mint.test_pagination import add_sessions
from tests.mint.test_session_tree import Work, send

pytestmark = [pytest.mark.realm(log=True), pytest.mark.spec("CONTROL 6")]
HOSTILE = "\"><script>alert(1)</script><img src=x onerror='alert(1)'>&amp;{{7*7}}"


def page(browser: Browser, path: str, status: int = 200) -> str:
    """Open a page, and check its form."""
    text = browser.get(path)
    assert browser.status == status, text
    require_well_formed(text)
    return text


def test_a_list_shows_what_sessions_did(unit: Harness) -> None:
    """Calls, holders and last tool are in the row; filters and pages are links."""
    work = Work(unit, purpose="a refund")
    work.call(work.task.delegate("acme/worker"), times=3)
    work.call(work.task, tool="orders.list")
    work.ship()
    browser = sign_in(unit)
    text = page(browser, "/console/sessions")
    for shown in (work.session["id"], AGENT, "a refund", "lookup", "orders.list", "1 session, the newest first"):
        assert shown in text, shown
    assert "No session matches" in page(browser, "/console/sessions?text=other&state=frozen")
    assert "arx session list --text other --state frozen" in browser.get("/console/sessions?text=other&state=frozen")
    assert page(browser, "/console/sessions?state=nonsense", 400)


def test_a_session_shows_tree_and_timeline(unit: Harness) -> None:
    """The page has the tree, what a delegation removed, the decisions, and the targets of kill and freeze."""
    work = Work(unit)
    worker = work.task.delegate("acme/worker", tools=["orders.get"])
    work.call(worker, times=5)
    work.call(worker, tool="orders.list")
    work.ship()
    browser = sign_in(unit)
    home = f"/console/sessions/{work.session['id']}"
    text = page(browser, home)
    link = next(node["ref"] for node in work.tree() if node["kind"] == "link")
    for shown in (
        "<svg",
        "Removed: every tool but orders.get",
        "allow ×5",
        "tool_not_allowed",
        'href="/console/decisions/',  # of the refusal: the other decisions are one line
        f"node={link}",
        "task lookup",
    ):
        assert shown in text, shown
    assert "removes every tool but orders.get" in page(browser, f"{home}?list=1")
    assert f"/console/kill?what=kill&amp;target=session%3A{work.session['id']}" in text
    assert f"target=link%3A{link}" in page(browser, f"{home}?node={link}&zoom=decisions&outcome=deny")
    assert "session.opened" in page(browser, f"{home}?zoom=all")
    assert "allow ×5" not in page(browser, f"{home}?zoom=decisions")
    assert page(browser, f"{home}?node=unknown&zoom=unknown&before=nonsense", 400)


def test_a_page_is_freed_once_it_is_answered(unit: Harness) -> None:
    """What it showed is in no reference cycle: a garbage collection of such pages stopped every answer meanwhile."""
    work = Work(unit)
    work.call(work.task.delegate("acme/worker"))
    work.ship()
    browser = sign_in(unit)
    gc.collect()
    gc.disable()
    try:
        page(browser, f"/console/sessions/{work.session['id']}")
        assert not [each for each in gc.get_objects() if isinstance(each, TreeNode | TimelineRecord)]
    finally:
        gc.enable()


def test_a_timeline_that_takes_long_goes_on(unit: Harness, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page without a line is not the end while older records are left: its link leads to them."""
    work = Work(unit)
    work.call(work.task, tool="orders.list")
    work.ship()
    send(unit, [decision(n, facts("s-other", "t-other"), "revoked") for n in range(1, 4)], boot="c" * 12)
    monkeypatch.setattr("arx_caps.audit.query.questions._WORTH_FILTERED", -1)
    monkeypatch.setattr("arx_caps.audit.query.questions._worth_gathering", lambda *_: False)
    monkeypatch.setattr("arx_caps.audit.query.questions._WINDOW", 0)
    monkeypatch.setattr("arx_caps.audit.query.questions._EACH_S", 0.0)
    browser, path, seen = sign_in(unit), f"/console/sessions/{work.session['id']}?outcome=deny", list[str]()
    while path:
        text = page(browser, path).partition('id="timeline"')[2]
        shown = re.search("older ones may match|no such record|tool_not_allowed", text)
        seen += [shown[0] if shown else ""]
        older = re.search(r'href="([^"]+)#timeline">Older<', text)
        path = older[1].replace("&amp;", "&") if older else ""
    assert seen[:3] == ["older ones may match"] * 3
    assert "tool_not_allowed" in seen[3:]


def test_what_holders_write_is_text(unit: Harness) -> None:
    """Names of holders and tools, purposes, caveats and parameters are shown as they are, and never run."""
    work = Work(unit, purpose=HOSTILE)
    caveat = f'{{"allow":[{{"tool":"x"}}],"net":["{HOSTILE.replace(chr(34), "")}"],"to":"x"}}'
    chain = facts(work.session["id"], work.row["id"], HOSTILE, agent=AGENT, caveats=((caveat,),), links=(HOSTILE,))
    send(unit, [decision(1, chain, tool=HOSTILE), decision(2, chain, "tool_not_allowed", HOSTILE)])
    browser = sign_in(unit)
    home = f"/console/sessions/{work.session['id']}"
    for path in (
        "/console/sessions",
        home,
        f"{home}?zoom=all",
        f"/console/agents/{AGENT}",
        f"{home}?node={HOSTILE}&list=1",
    ):
        text = page(browser, path)
        assert "<script>alert" not in text, path
        assert "<img src=x" not in text, path
    assert page(browser, f"{home}?list=1&node={quote(HOSTILE)}").count("This delegation removed") == 1


def test_unknown_sessions_and_agents_are_not_found(unit: Harness) -> None:
    """A session of another realm is as unknown as none; so is a path that no agent has."""
    browser = sign_in(unit)
    for path in ("sessions/s-aaaaaaaaaaaaaaaa", "sessions/x%2Fy", "agents/acme/none", "agents/%00"):
        assert "not_found" in page(browser, f"/console/{path}", 404)


@pytest.mark.slow
def test_a_thousand_sessions_come_in_pages(unit: Harness) -> None:
    """A page has fifty rows, and the pages have each session once."""
    unit.enrol()
    ids = add_sessions(unit, 1000)
    browser = sign_in(unit)
    text, seen = page(browser, "/console/sessions"), list[str]()
    assert "1\u202f000 sessions" in text
    while True:
        seen += re.findall(r'href="/console/sessions/(s-\d{16})"', text)
        older = re.search(r'href="([^"]+)">Older', text)
        if older is None:
            break
        text = browser.get(older[1].replace("&amp;", "&"))
    assert sorted(seen) == ids


def test_a_session_is_shown_without_the_log(unit: Harness) -> None:
    """If the log's database does not answer, facts and tasks are there, and the page says what is missing."""
    work = Work(unit)
    browser = sign_in(unit)
    with unit.mint.log.store._engine.begin() as c:
        c.exec_driver_sql("ALTER TABLE log_node RENAME TO log_gone")
    text = page(browser, f"/console/sessions/{work.session['id']}")
    assert "The audit log does not answer" in text
    assert work.row["id"] in text
    assert "The audit log does not answer" in page(browser, "/console/sessions")


def test_roles_see_what_they_may(unit: Harness) -> None:
    """Who may only read sees no button; who may not read the log sees no timeline."""
    work = Work(unit)
    home = f"/console/sessions/{work.session['id']}"
    reader = sign_in(unit, operator_with(unit, "reader", "read-only"))
    assert "/console/kill?" not in page(reader, home) + page(reader, f"/console/agents/{AGENT}")
    approver = sign_in(unit, operator_with(unit, "approver", "approver"))
    assert "may not read the audit log" in page(approver, home)
    assert "Not allowed" in page(approver, "/console/agents", 403)


def test_an_agent_shows_its_keys_and_sessions(unit: Harness) -> None:
    """Owner, keys, sessions; frozen as the kill epoch says."""
    key = unit.enrol("acme/support/one", owner="ada", metadata={"purpose": "answers"})
    assert isinstance(key, KeyFile)
    _, session = unit.open_session(key)
    browser = sign_in(unit)
    text = page(browser, "/console/agents/acme/support/one")
    for shown in ("ada", "answers", key.key.public.kid[:8], session["id"], "target=agent%3Aacme%2Fsupport%2Fone"):
        assert shown in text, shown
    unit.enrol("acme/support/idle")
    assert "No session matches" in page(browser, "/console/agents/acme/support/idle")
    unit.epochs.freeze("agent:acme/support/one")
    assert '<span class="badge bad">frozen</span>' in page(browser, "/console/agents/acme/support/one")
    assert "acme/support/one" in page(browser, "/console/agents?under=acme/support")
    assert "No agent matches" in page(browser, "/console/agents?under=acme/none")


@pytest.mark.parametrize("where", ["/console/sessions/live?state=open", "/console/sessions/{session}/live"])
def test_lists_and_sessions_are_live(unit: Harness, where: str) -> None:
    """A freeze shows on the open page, which is sent again."""
    work = Work(unit)
    work.call(work.task)
    work.ship()
    browser = sign_in(unit)
    seen: list[bool] = []
    event: list[str] = []
    with browser.client.stream("GET", where.format(session=work.session["id"])) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            event.append(line)
            if line:
                continue
            text, event = "".join(event), []
            if not text.startswith("data: "):
                continue
            seen.append(">frozen<" in text if "{" in where else work.session["id"] not in text)
            if len(seen) == 1:
                unit.epochs.freeze(f"session:{work.session['id']}")
            elif seen[-1]:
                browser.stop_streams()
    assert (seen[0], seen[-1]) == (False, True)
