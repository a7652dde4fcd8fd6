# SPDX-License-Identifier: Apache-2.0
"""Kill, freeze and thaw in the console: the preview, the page of each kill, what is frozen, and attacks on the form."""

import re
from functools import partial
from typing import Any
from urllib.parse import quote

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.identity.console_session import begin_by_login
from arx_caps.revocation.store import RevocationStore
from arx_verifier.clock import now_ms
from arx_verifier.revocation.follower import Follower
from tests.console.harness import Browser, link_of, operator_with, sign_in
from tests.mint.harness import AGENT, Harness
from tests.servers import run_together, until

pytestmark = [pytest.mark.servers, pytest.mark.sqlite, pytest.mark.spec("CONTROL 4.7")]
SESSION = "session:s-abcdefghijklmnop"
DIALOG = "/console/kill"


def send(browser: Browser, targets: str, *, what: str = "kill", reason: str = "because", **fields: str) -> str:
    """Open the dialog, and send its form."""
    page = browser.get(f"{DIALOG}?target={targets.split()[0] if targets else ''}")
    form = re.search(r'name="form" value="([^"]+)"', page)
    fields = {"form": form[1] if form else "", "do": "go"} | fields
    return browser.post(DIALOG, targets=targets, what=what, reason=reason, **fields)


def events(live: Harness, kind: str) -> list[dict[str, Any]]:
    return [event for event in live.events() if event["kind"] == kind]


def path_of(browser: Browser) -> str:
    assert browser.page is not None
    return str(browser.page.url.path)


def test_a_kill_is_previewed_made_and_recorded(live: Harness) -> None:
    """The dialog shows what ends, the form leads to the kill's own page, and both are what the audit log has."""
    live.session()
    browser = sign_in(live)
    page = browser.get(f"{DIALOG}?target=agent:{AGENT}")
    assert re.search(r"<dt>Sessions</dt><dd>1</dd>", page)
    assert "1 verifier;" in page
    assert events(live, "targets.killed") == []
    page = send(browser, f"agent:{AGENT}", reason="sold <b>refunds</b>")
    assert re.fullmatch(r"/console/kills/\d+", path_of(browser))
    assert "sold &lt;b&gt;refunds&lt;/b&gt;" in page
    until(lambda: "Final: recorded" in browser.get(path_of(browser)))
    (event,) = events(live, "targets.killed")
    assert (event["by"], event["targets"], event["reason"]) == (
        "operator:root",
        [f"agent:{AGENT}"],
        "sold <b>refunds</b>",
    )
    (seen,) = events(live, "targets.confirmed")
    assert seen["seq"] == event["seq"] == int(path_of(browser).rpartition("/")[2])
    assert f"{seen['confirmed']} of {seen['verifiers']}" in browser.get("/console/kills")
    # The agent is frozen now, and the page of what is frozen leads to the kill and to the thaw.
    frozen = browser.get("/console/frozen")
    assert f"agent:{AGENT}" in frozen
    assert f'href="/console/agents?under={quote(AGENT, safe="")}"' in frozen
    assert f'href="/console/kills/{event["seq"]}"' in frozen
    assert f'href="/console/thaw?target=agent%3A{AGENT}"' in frozen


@pytest.mark.spec("12.7")
def test_a_process_that_watches_is_named(live: Harness, valkey: EmbeddedValkey) -> None:
    """A red band on the pages of now and of verifiers and on the kill's own; the report is partial."""
    live.session()
    browser = sign_in(live)
    watching = Follower(valkey.url, live.realm.name, "orders-1-abcdef")
    watching.watch_until_ms = now_ms() + 24 * 3_600_000
    watching.start()
    try:
        until(lambda: any(each.watches_until for each in live.mint.store.verifiers()))
        for path in ("/console/now", "/console/verifiers"):
            page = browser.get(path)
            assert "Calls that would be refused go on: 1 process watches." in page, path
            assert "orders-1-abcdef" in page
        page = send(browser, f"agent:{AGENT}")
        until(lambda: "Final: recorded" in browser.get(path_of(browser)))
        page = browser.get(path_of(browser))
        assert "1 watching." in page
        assert "no verifier accepts what it covers" not in page
        (seen,) = events(live, "targets.confirmed")
        assert seen["status"] in ("partial", "unconfirmed")
        assert seen["watching"][0].startswith("orders-1-abcdef, until ")
    finally:
        watching.close()


@pytest.mark.parametrize("target", ["foo", "agent:acme/x\nfoo"])
def test_a_preview_of_what_is_no_target_is_an_error(live: Harness, target: str) -> None:
    """The same sentence where the preview would be as from the button, and no word of a kill that may work."""
    browser = sign_in(live)
    browser.get("/console/kill")
    for do in ("preview", "go"):
        page = browser.post("/console/kill", targets=target, what="kill", reason="x", do=do)
        assert browser.status == 400
        assert page.count("Unknown kind of target: expected one of realm") == 2
        assert "may work" not in page


def test_each_choice_does_what_it_says(live: Harness) -> None:
    """Kill, kill and freeze, freeze, thaw: the operation is that of the store's log."""
    browser = sign_in(live)
    for what in ("freeze", "thaw", "kill", "kill+freeze"):
        page = send(browser, SESSION, what=what)
        assert "/console/kills/" in path_of(browser), page
        assert ("open new sessions, and start new tasks" in page) is (what == "thaw")
    # A kill of a session taints what it wrote into memories, by a freeze of its own.
    assert [entry.op for entry in live.mint.store.log()] == ["freeze", "thaw", "freeze", "kill", "kill+freeze"]
    # Several targets are one step.
    send(browser, f"{SESSION}\n agent:{AGENT}, agent:{AGENT}")
    assert [event["targets"] for event in events(live, "targets.killed")][-1] == [SESSION, f"agent:{AGENT}"]


def test_a_form_sent_twice_kills_once(live: Harness) -> None:
    """Two clicks on one form, also at the same moment, are one kill; a new form is another."""
    browser = sign_in(live)
    page = browser.get(f"{DIALOG}?target={SESSION}")
    form = dict(re.findall(r'name="(token|form)" value="([^"]+)"', page))
    form |= {"do": "go", "what": "kill", "targets": SESSION, "reason": "twice"}
    seen: list[str] = []

    def click() -> None:
        answer = browser.client.post(
            DIALOG, data=form, headers={"Origin": "http://127.0.0.1:8700"}, follow_redirects=False
        )
        seen.append(answer.headers["location"])

    run_together(*[click] * 4)
    assert len(set(seen)) == 1
    assert len(events(live, "targets.killed")) == 1
    send(browser, SESSION)
    assert len(events(live, "targets.killed")) == 2


def test_a_record_leads_to_the_dialog_with_all_its_targets(live: Harness) -> None:
    """More of them than an address holds: each is thawed again."""
    browser, targets = sign_in(live), [f"agent:acme/{'x' * 50}/a{number}" for number in range(200)]
    page = send(browser, "\n".join(targets), what="freeze")
    form = dict(re.findall(r'name="(what|targets)" value="([^"]+)"', page))
    assert form["what"] == "thaw"
    page = browser.post(DIALOG, **form)
    assert browser.status == 200
    assert [target in page for target in targets] == [True] * 200


def test_two_operators_at_once(live: Harness) -> None:
    """Each has a kill of its own with its own name, and the form of one is no repeat of the other's."""
    browsers = [sign_in(live), sign_in(live, operator_with(live, "ada", "responder"))]
    run_together(*(partial(send, browser, SESSION, form="same") for browser in browsers))
    assert {event["by"] for event in events(live, "targets.killed")} == {"operator:root", "operator:ada"}
    assert len({path_of(browser) for browser in browsers}) == 2


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"targets": ""}, "Name at least one target"),
        ({"targets": SESSION, "reason": "  "}, "Give a reason"),
        ({"targets": "session:<script>alert(1)</script>"}, "nvalid session target"),
        ({"targets": "agents:acme"}, "nknown kind of target"),
        ({"targets": SESSION, "what": "rotate"}, "nvalid choice"),
        ({"targets": SESSION, "reason": "x" * 501}, "nvalid body"),
        ({"targets": "agent:acme/a " * 3 + " ".join(f"agent:acme/a{n}" for n in range(1000))}, "nvalid body"),
    ],
)
def test_a_forged_form_kills_nothing(live: Harness, fields: dict[str, str], text: str) -> None:
    """What the API refuses is refused with a page that says why, and markup in it is text."""
    browser = sign_in(live)
    page = send(browser, **fields)
    assert browser.status == 400, page
    assert text in page
    assert "<script>alert" not in page
    assert live.mint.store.log() == ()


def test_another_site_kills_nothing(live: Harness) -> None:
    """Without the token of a page of this session, or from elsewhere, nothing happens."""
    browser = sign_in(live)
    for fields in ({"token": ""}, {"token": "x" * 43}):
        send(browser, SESSION, **fields)
        assert browser.status == 403
    browser.get(DIALOG)
    browser.post(DIALOG, {"Origin": "https://evil.example"}, targets=SESSION, what="kill", reason="x", do="go")
    assert browser.status == 403
    browser.get(f"{DIALOG}?target={SESSION}&what=kill&reason=x&do=go")
    assert live.mint.store.log() == ()


@pytest.mark.spec("CONTROL 6.2")
def test_a_freeze_of_an_operator_ends_the_sign_ins(live: Harness) -> None:
    """Its browser stays signed out after the thaw, and its links open nothing; those of other operators stay."""
    nina, root = operator_with(live, "nina", "admin"), live.operator()
    browser, other, link = sign_in(live, nina), sign_in(live, root), link_of(nina)
    ends = {"targets": ["operator:nina"], "reason": "lost laptop", "wait": False}
    assert root.call("POST", "/v1/freezes", ends).status_code == 200
    assert [row.operator for row in live.mint.db.console_sessions.list()] == ["root"]
    with live.mint.db.unit() as unit:  # a login at another mint, which has not applied the freeze yet
        begin_by_login(live.mint, unit, "nina", now_ms(), "")
    assert root.call("POST", "/v1/freezes/thaw", ends).status_code == 200
    assert [row.operator for row in live.mint.db.console_sessions.list()] == ["root"]
    browser.get("/console/now")
    assert path_of(browser) == "/console/sign-in"
    browser.get(link)
    assert browser.status == 401
    assert "<h1>Now</h1>" in other.get("/console/now")


def test_a_thousand_targets(live: Harness) -> None:
    """The largest step that the store takes: the page names the first of them."""
    browser = sign_in(live)
    page = send(browser, " ".join(f"agent:acme/a{n}" for n in range(1000)))
    assert "and 800 more" in page
    assert len(live.mint.store.freezes()) == 1000


def test_roles_decide_what_is_offered_and_done(live: Harness) -> None:
    """A reader sees no button; a pager kills, and freezes nothing; both are checked again when a form is sent."""
    live.session()
    reader = sign_in(live, operator_with(live, "nina", "read-only"))
    page = reader.get(f"{DIALOG}?target=agent:{AGENT}")
    assert "Your role may not kill" in page
    for path in ("/console/kills", "/console/frozen"):
        assert DIALOG + '"' not in reader.get(path)
    send(reader, SESSION)
    assert reader.status == 403
    pager = sign_in(live, operator_with(live, "night", "kill-only"))
    page = pager.get(f"{DIALOG}?target=agent:{AGENT}")
    assert 'value="freeze"' not in page
    assert re.search(r"<dt>Sessions</dt><dd>1</dd>", page)
    send(pager, SESSION, what="freeze")
    assert pager.status == 403
    assert live.mint.store.log() == ()
    send(pager, SESSION)
    assert "/console/kills/" in path_of(pager)
    assert pager.status == 200


def test_the_stream_ends_with_the_record(live: Harness) -> None:
    """A laggard is named while it is waited for, and the stream goes on to the final record."""
    operator, browser = live.operator(), sign_in(live)
    until(
        lambda: (
            operator.call("POST", "/v1/freezes/thaw", {"targets": [SESSION], "reason": "x"}).json()["status"]
            == "confirmed"
        )
    )
    store = live.mint.store
    keys = (store.keys.header, store.keys.kills, store.keys.freezes, store.keys.log, store.keys.probes, store.keys.acks)
    store.exchange.call("arx1_probe", keys, "orders-<b>1</b>", store.header().incarnation, 0, "", 1)
    page = send(browser, SESSION)
    assert "orders-&lt;b&gt;1&lt;/b&gt;" in page
    assert '<meta http-equiv="refresh"' in page
    text = ""
    with browser.client.stream("GET", f"{path_of(browser)}/live") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        for line in answer.iter_lines():
            text += line
            if "Final: recorded" in text:
                break
    assert "1 of 2" in text
    assert "orders-&lt;b&gt;1&lt;/b&gt;" in text
    page = browser.get(path_of(browser))
    assert '<meta http-equiv="refresh"' not in page
    assert "Every lease from before it has ended" in page


@pytest.mark.realm(own_store=True)
def test_a_kill_without_the_store(live: Harness, own_valkey: EmbeddedValkey) -> None:
    """The page confirms nothing; it shows what is in force, and how to kill without this mint."""
    browser = sign_in(live)
    live.session()
    browser.get(DIALOG)
    own_valkey.stop()
    page = browser.post(DIALOG, targets=f"agent:{AGENT}", what="kill", reason="now", do="go", form="f1")
    assert browser.status == 503
    assert "Not confirmed" in page
    assert f"arx kill agent:{AGENT} --reason … --direct" in page
    assert "now</textarea>" in page
    # The same form makes the kill once the store is back.
    own_valkey.start()
    until(
        lambda: (
            "/console/kills/"
            in (
                browser.post(DIALOG, targets=f"agent:{AGENT}", what="kill", reason="now", do="go", form="f1")
                and path_of(browser)
            )
        )
    )
    assert len(events(live, "targets.killed")) == 1


def test_a_direct_kill_has_a_page(live: Harness) -> None:
    """What an operator wrote into the store while the mint was away is found by its number, with its author."""
    browser = sign_in(live)
    with RevocationStore(live.mint.store_url, live.mint.store.realm) as store:
        seq = store.kill([SESSION], "at <night>", "operator:ada (direct, user ada)").header.seq
    page = browser.get(f"/console/kills/{seq}")
    assert "at &lt;night&gt;" in page
    assert "operator:ada (direct, user ada)" in page
    assert browser.get("/console/kills/999999")
    assert browser.status == 404
