# SPDX-License-Identifier: Apache-2.0
"""Notifications: a real receiver process gets them, signed, at least once, whatever it answered before."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update
from standardwebhooks import Webhook, WebhookVerificationError

from arx_caps.credentials.jose import KeyFile
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.notices import KILLED, NOTIFIED
from arx_caps.mint.db.tables import NOTIFICATIONS, WEBHOOKS
from arx_caps.mint.keys.root_keys import RootKeys
from arx_caps.mint.notifications import receivers, sender
from arx_caps.mint.notifications.message import Notice, body_of
from arx_caps.mint.notifications.receivers import open_receiver
from arx_caps.mint.server.init_realm import recover_operator
from tests.mint.approvals import TWO, Desk
from tests.mint.harness import ISSUER, Harness, open_unit
from tests.mint.receiver import Received, ReceiverProcess
from tests.mint.test_operators import enrol, sign_in
from tests.mint.test_rotation import joined
from tests.servers import until

pytestmark = [pytest.mark.servers, pytest.mark.spec("CONTROL 7")]


class Hooked:
    """A realm whose notifications a receiver gets.

    Attributes:
        harness: The realm.
        receiver: The receiver.
        operator: An operator who may do everything.
        secrets: The secrets of the webhooks, by their ids.
    """

    def __init__(self, harness: Harness, receiver: ReceiverProcess) -> None:
        self.harness, self.receiver, self.operator = harness, receiver, harness.operator()
        self.secrets: dict[str, str] = {}

    def add(self, path: str = "/200", **about: Any) -> str:
        """Add a webhook, and return its id."""
        answer = self.operator.call("POST", "/v1/webhooks", {"url": self.receiver.url(path), **about})
        assert answer.status_code == 201, answer.text
        reply = answer.json()
        self.secrets[reply["webhook"]["id"]] = reply["secret"]
        return str(reply["webhook"]["id"])

    def kill(self, name: str) -> None:
        """Record what a kill records."""
        facts = {"targets": [f"agent:{name}"], "seq": 7, "reason": "a test", "durable": True}
        self.harness.mint.db.record(Event.of(KILLED, "operator:ada", **facts))

    def got(self, name: str, path: str = "/200") -> list[Received]:
        """Return what the receiver got about a kill."""
        return [one for one in self.receiver.at(path) if name in one.raw]

    def wait(self, name: str, path: str = "/200", count: int = 1) -> list[Received]:
        until(lambda: len(self.got(name, path)) >= count)
        return self.got(name, path)

    def shown(self, webhook: str) -> dict[str, Any]:
        """Return a webhook as it is listed."""
        rows = self.operator.call("GET", "/v1/webhooks").json()["webhooks"]
        return next(row for row in rows if row["id"] == webhook)

    def left(self, **query: str) -> list[dict[str, Any]]:
        """Return the notifications that were not delivered."""
        rows: list[dict[str, Any]] = self.operator.call("GET", "/v1/notifications", **query).json()["notifications"]
        return rows


@pytest.fixture
def hooked(
    tmp_path: Path,
    database: str | None,
    realm_template: Path,
    receiver: ReceiverProcess,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Hooked]:
    """A realm with a receiver, on each database; it looks often, and tries again soon."""
    receiver.got.clear()
    monkeypatch.setattr(sender, "LOOK_S", 0.02)
    monkeypatch.setattr(sender, "RETRIES_S", (0.05, 0.05))
    how = {"database": database, "template": realm_template, "webhook_hosts": (receiver.netloc,)}
    with open_unit(tmp_path / "realm", **how) as harness:  # type: ignore[arg-type]
        harness.mint.notifications.start()
        yield Hooked(harness, receiver)


@pytest.mark.sqlite
def test_an_approval_that_waits(hooked: Hooked) -> None:
    """An independent library takes the signature; arguments and reason stay in the realm."""
    desk = Desk(hooked.harness)
    webhook = hooked.add()
    asked = desk.ask(why="a secret reason")
    (got,) = hooked.receiver.wait()
    body = Webhook(hooked.secrets[webhook]).verify(got.raw, got.headers)
    assert body == got.body
    assert (body["version"], body["type"], body["realm"], body["id"]) == (1, "approval.asked", "acme", got.id)
    assert body["link"] == f"{ISSUER}/console/approvals/{asked['id']}"
    assert body["command"] == f"arx approval show {asked['id']}"
    assert body["data"]["tool"] == "payments.refund"
    assert set(body["data"]) <= {*NOTIFIED["approval.asked"], "by"}
    assert "secret reason" not in got.raw
    assert "o-1" not in got.raw
    until(lambda: hooked.left() == [])
    assert hooked.shown(webhook)["error"] is None
    with pytest.raises(WebhookVerificationError):
        Webhook(hooked.secrets[webhook]).verify(got.raw + " ", got.headers)


def test_each_receiver_gets_its_events_once(hooked: Hooked) -> None:
    """With an id of its own; one that takes other kinds gets nothing, and neither does one that is removed."""
    first, second = hooked.add(), hooked.add("/201")
    hooked.add("/202", events=["approval.asked"])
    removed = hooked.add("/204")
    assert hooked.operator.call("DELETE", f"/v1/webhooks/{removed}").json()["state"] == "removed"
    hooked.kill("acme/one")
    ids = {hooked.wait("acme/one")[0].id, hooked.wait("acme/one", "/201")[0].id}
    assert len(ids) == 2
    until(lambda: hooked.left() == [])
    assert [len(hooked.got("acme/one", path)) for path in ("/200", "/201", "/202", "/204")] == [1, 1, 0, 0]
    answer = hooked.got("acme/one")[0].body
    assert (answer["link"], answer["command"]) == (f"{ISSUER}/console/kills/7", "arx kills show 7")
    assert hooked.shown(first)["delivered_at"]
    assert hooked.shown(second)["failed"] == 0


def test_a_receiver_that_fails_gets_the_same_again(hooked: Hooked) -> None:
    """The same id and body, and a time of each attempt; the last error is shown until one is taken."""
    webhook = hooked.add("/fails/2")
    hooked.kill("acme/again")
    got = hooked.wait("acme/again", "/fails/2", 3)
    assert len({one.id for one in got}) == len({one.raw for one in got}) == 1
    for one in got:
        Webhook(hooked.secrets[webhook]).verify(one.raw, one.headers)
    until(lambda: hooked.left() == [])
    assert hooked.shown(webhook)["error"] is None
    assert len(hooked.got("acme/again", "/fails/2")) == 3


def test_a_notification_that_is_given_up_and_sent_again(hooked: Hooked, caplog: pytest.LogCaptureFixture) -> None:
    """It is listed with the reason, and an operator sends it again with its id."""
    webhook = hooked.add("/fails/4")
    with caplog.at_level(logging.ERROR):
        hooked.kill("acme/dead")
        until(lambda: hooked.left(state="failed"))
    (dead,) = hooked.left()
    assert (dead["tries"], dead["error"], dead["next_at"]) == (3, "answered 500", None)
    assert hooked.shown(webhook)["failed"] == 1
    assert "was given up" in caplog.text
    assert hooked.secrets[webhook] not in caplog.text
    assert "/fails/4" not in caplog.text
    assert hooked.operator.call("POST", f"/v1/notifications/{dead['id']}/resend").json()["state"] == "waiting"
    until(lambda: hooked.left() == [])
    assert len({one.id for one in hooked.got("acme/dead", "/fails/4")}) == 1
    assert hooked.operator.call("POST", f"/v1/notifications/{dead['id']}/resend").status_code == 404


@pytest.mark.sqlite
def test_a_receiver_that_is_gone(hooked: Hooked) -> None:
    """410 ends it: what waits has failed, and later events are not queued for it."""
    webhook = hooked.add("/410")
    hooked.kill("acme/gone")
    until(lambda: hooked.shown(webhook)["state"] == "gone")
    until(lambda: hooked.left(state="failed"))
    hooked.kill("acme/later")
    (dead,) = hooked.left()
    assert "acme/gone" in json.dumps(dead)
    answer = hooked.operator.call("POST", f"/v1/notifications/{dead['id']}/resend")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert [event["webhook"] for event in hooked.harness.events() if event["kind"] == "webhook.gone"] == [webhook]
    assert hooked.operator.call("POST", f"/v1/webhooks/{webhook}/test").status_code == 409


@pytest.mark.sqlite
def test_a_receiver_that_asks_to_wait(hooked: Hooked) -> None:
    """Retry-After is kept, up to six hours."""
    hooked.add("/429/after")
    hooked.kill("acme/busy")
    (got,) = hooked.wait("acme/busy", "/429/after")
    until(lambda: hooked.left() and hooked.left()[0]["error"] == "answered 429")
    (waiting,) = hooked.left()
    assert 7200 * 0.8 * 1000 - 1000 <= waiting["next_at"] - got.at * 1000 <= 7200 * 1.2 * 1000 + 30_000


@pytest.mark.sqlite
def test_a_receiver_that_hangs_delays_no_other(hooked: Hooked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor the mint; its attempt ends by itself."""
    monkeypatch.setattr(receivers, "TOTAL_S", 1.0)
    for path in ("/hang", "/drip"):
        hooked.add(path)
    hooked.add()
    for number in range(3):
        hooked.kill(f"acme/n{number}")
    for number in range(3):
        hooked.wait(f"acme/n{number}")
    until(lambda: {"127.0.0.1 did not answer"} <= {str(row["error"]).partition(":")[0] for row in hooked.left()})
    assert hooked.operator.call("GET", "/v1/webhooks").status_code == 200


@pytest.mark.sqlite
def test_slacks_form(hooked: Hooked) -> None:
    """Texts of others are no markup, mention no user, and keep to Slack's limits."""
    hooked.add(format="slack")
    nasty = "<!channel> <https://evil.example|Open in the console> & *b*\u202e\n" + "x" * 4000
    facts = {"targets": ["agent:acme/slack", "subject:" + "0" * 32], "seq": 9, "reason": nasty}
    hooked.harness.mint.db.record(Event.of(KILLED, "operator:ada", **facts))
    body = hooked.wait("acme/slack")[0].body
    assert set(body) == {"text", "blocks"}
    assert "<" not in body["text"]
    texts = [block["text"] for block in body["blocks"] if "text" in block]
    texts += [part for block in body["blocks"] for part in (*block.get("fields", ()), *block.get("elements", ()))]
    marked = [text for text in texts if text["type"] == "mrkdwn"]
    assert [text["text"] for text in marked] == [f"<{ISSUER}/console/kills/9|Open in the console>"]
    assert all(len(text["text"]) <= 300 and text["text"].isprintable() for text in texts)
    assert any("<!channel>" in text["text"] for text in texts if text["type"] == "plain_text")
    assert "0" * 32 not in json.dumps(body)


@pytest.mark.sqlite
def test_a_test_says_what_the_receiver_answered(hooked: Hooked) -> None:
    """At once and once; it is no event, and never queued."""
    for path, value in {"/200": (True, 200, None), "/500": (False, 500, "answered 500")}.items():
        answer = hooked.operator.call("POST", f"/v1/webhooks/{hooked.add(path)}/test").json()
        assert (answer["taken"], answer["status"], answer["error"]) == value
        until(lambda path=path: "webhook.test" in {got.body["type"] for got in hooked.receiver.at(path)})  # type: ignore[misc]
    assert "webhook.test" not in {row["kind"] for row in hooked.left()}


def test_of_two_mints_one_sends(hooked: Hooked) -> None:
    """A claim keeps it from the other one; when the claim is over, the other one sends it, and counts on."""
    webhook = hooked.add("/201")
    hooked.harness.mint.notifications.close()
    hooked.kill("acme/two")
    db = hooked.harness.mint.db.notifications
    claimed = db.claim(webhook, 60_000)
    assert claimed is not None
    assert (claimed.tries, db.claim(webhook, 60_000), db.due()) == (1, None, set())
    with hooked.harness.mint.db.write() as c:
        c.execute(update(NOTIFICATIONS).values(next_at=0))  # the first one was killed, and its claim is over
    again = db.claim(webhook, 60_000)
    assert again is not None
    assert (again.id, again.tries) == (claimed.id, 2)
    db.failed(claimed, "late", None)  # of the first one, which lived on: no business of its any more
    assert hooked.left()[0]["state"] == "waiting"
    db.delivered(again)
    assert hooked.left() == []


def reseal(hooked: Hooked) -> RootKeys:
    """Seal the realm's secrets with a passphrase, of which the running mint learns nothing."""
    realm = hooked.harness.realm
    before = RootKeys.load(realm.root_path, realm=realm.name, passphrase=None, key_path=realm.root_key_path)
    _, after = before.seal(passphrase="correct horse", key_path=realm.root_key_path)
    hooked.harness.mint.db.keys.reseal_roots(after.reseal, Event.of("key.resealed", "host:uid-0"))
    return after


@pytest.mark.spec("CONTROL 7.1")
@pytest.mark.sqlite
def test_the_database_alone_opens_no_receiver(hooked: Hooked) -> None:
    """URL and secret are sealed, are shown nowhere, and open after a reseal."""
    webhook = hooked.add("/200?token=in-the-url")
    secret, mint = hooked.secrets[webhook], hooked.harness.mint
    hooked.kill("acme/sealed")
    until(lambda: hooked.shown(webhook)["delivered_at"])
    with mint.db.read() as c:
        rows = str(c.execute(WEBHOOKS.select()).all())
    for text in (rows, json.dumps(hooked.harness.events()), json.dumps(hooked.shown(webhook))):
        assert "in-the-url" not in text
        assert secret not in text
    after = reseal(hooked)
    row = mint.db.webhooks.find(webhook)
    assert row is not None
    assert open_receiver(after, row).secret == secret
    assert secret not in repr(open_receiver(after, row))


@pytest.mark.sqlite
def test_a_mint_that_cannot_open_a_receiver_says_why(hooked: Hooked) -> None:
    """A mint that was not restarted after a reseal cannot send: the attempts fail and end as others do."""
    webhook = hooked.add()
    reseal(hooked)
    hooked.kill("acme/resealed")
    until(lambda: hooked.left(state="failed"))
    assert "passphrase" in hooked.shown(webhook)["error"]
    assert hooked.receiver.at("/200") == []


@pytest.mark.sqlite
def test_who_may(hooked: Hooked) -> None:
    """A reader lists and changes nothing; an agent does neither."""
    webhook = hooked.add()
    agent, _ = hooked.harness.session()
    bea = sign_in(hooked.harness, enrol(hooked.harness, "bea", role="read-only"))
    assert bea.call("GET", "/v1/webhooks").status_code == bea.call("GET", "/v1/notifications").status_code == 200
    for caller in (agent, bea):
        assert caller.call("DELETE", f"/v1/webhooks/{webhook}").status_code == 403
        assert caller.call("POST", "/v1/webhooks", {"url": "https://a.example/"}).status_code == 403
        assert caller.call("POST", f"/v1/webhooks/{webhook}/test").status_code == 403
        assert caller.call("POST", "/v1/notifications/n-1/resend").status_code == 403
    assert agent.call("GET", "/v1/webhooks").status_code == 403


@pytest.mark.sqlite
@pytest.mark.parametrize("kind", NOTIFIED)
def test_each_kind_has_a_text_a_page_and_a_command(unit: Harness, kind: str) -> None:
    """Also of facts that an older mint did not write; and the page of the documentation names it."""
    facts = {
        "targets": ["a"],
        "verifiers": ["a"],
        "agents": ["a"],
        "count": 1,
        "seq": 1,
        "approval": "a-1",
        "tool": "t",
    }
    facts |= {"operator": "bea"}
    body = json.loads(body_of(Notice("n-1", kind, 0, facts), unit.realm, "json"))
    assert body["text"] not in ("", kind)
    assert body["command"].startswith("arx ")
    assert f"`{kind}`" in Path("docs/notifications.md").read_text("utf-8")
    unknown = json.loads(body_of(Notice("n-1", "of.a.newer.mint", 0, {}), unit.realm, "slack"))
    assert "of.a.newer.mint" in unknown["text"]


@pytest.mark.sqlite
def test_a_test_of_a_kind_cannot_pass_for_an_event(hooked: Hooked) -> None:
    """It has the type of the kind, is marked as a test, and has no fact of an event; another kind is refused."""
    webhook = hooked.add(events=["log.halted"])
    for kind in (*NOTIFIED, "heartbeat"):
        answer = hooked.operator.call("POST", f"/v1/webhooks/{webhook}/test", event=kind)
        assert answer.json()["taken"], answer.text
        until(lambda kind=kind: kind in [got.body["type"] for got in hooked.receiver.at("/200")])  # type: ignore[misc]
        body = hooked.receiver.at("/200")[-1].body
        assert (body["type"], body["text"]) == (kind, f"A test, no event: {kind}")
        assert set(body["data"]) == {"by", "test"}
    answer = hooked.operator.call("POST", f"/v1/webhooks/{webhook}/test", event="no.such")
    assert (answer.status_code, "no.such" in answer.json()["detail"]) == (400, True)


@pytest.mark.sqlite
@pytest.mark.parametrize("kind", NOTIFIED)
def test_no_fact_is_markup_in_slack(unit: Harness, kind: str) -> None:
    """Whatever an agent, a service or a policy is named: one link, to the console, and no call of a channel."""
    nasty = "<!channel> <https://evil.example|Open in the console> `x` *b*\u202e\n"
    facts: dict[str, Any] = dict.fromkeys(NOTIFIED[kind], nasty) | {"by": nasty, "count": 2}
    facts |= {name: [nasty] for name in ("targets", "verifiers", "agents", "tables") if name in facts}
    body = json.loads(body_of(Notice("n-1", kind, 0, facts), unit.realm, "slack"))
    assert "<" not in body["text"]
    texts = [block["text"] for block in body["blocks"] if "text" in block]
    texts += [part for block in body["blocks"] for part in (*block.get("fields", ()), *block.get("elements", ()))]
    (link,) = [text["text"] for text in texts if text["type"] == "mrkdwn"]
    assert link.startswith(f"<{ISSUER}/console")
    assert (link.count("<"), link.count(">"), link.count("|Open in the console>")) == (1, 1, 1)
    assert all(text["text"].isprintable() for text in texts)


@pytest.mark.spec("CONTROL 7.2")
def test_what_changes_who_may_do_what(hooked: Hooked) -> None:
    """Operators, break-glass, policies, keys and webhooks: each is notified once, without a line of a policy."""
    harness, call = hooked.harness, hooked.operator.call
    Desk(harness)
    joined(harness)
    webhook = hooked.add()
    added = hooked.add("/204", events=["log.halted"])
    enrol(harness, "bea", role="read-only")
    key = KeyFile.generate("operator", "bea", ISSUER).key.public
    assert call("PATCH", "/v1/operators/bea", {"role": "responder"}).status_code == 200
    assert call("PATCH", "/v1/operators/bea", {"add_jwk": key.jwk}).status_code == 200
    recover_operator(harness.realm, "night", KeyFile.generate("operator", "night", ISSUER).key.public, passphrase=None)
    assert call("POST", "/v1/policies", {"policy": TWO}).is_success
    assert call("POST", "/v1/root-keys/rotate", {"now": True}).is_success
    assert call("POST", "/v1/services/orders/replace-key", {}).is_success
    call("DELETE", f"/v1/webhooks/{added}")
    got = {}
    for kind, facts in {
        "webhook.added": {"webhook": added, "origin": f"http://{hooked.receiver.netloc}"},
        "operator.enrolled": {"operator": "bea", "role": "read-only"},
        "operator.role_changed": {"operator": "bea", "role": "responder", "before": "read-only"},
        "operator.keys_changed": {"operator": "bea", "added": key.kid},
        "operator.recovered": {"operator": "night"},
        "policy.loaded": {"tables": ["task refund"], "count": 1, "granted": 0},
        "key.rotated": {"at_once": True},
        "service.key_replaced": {"audience": "orders", "stolen": False},
        "webhook.removed": {"webhook": added},
    }.items():
        until(lambda kind=kind: [one for one in hooked.receiver.at("/200") if one.body["type"] == kind])  # type: ignore[misc]
        (got[kind],) = [one for one in hooked.receiver.at("/200") if one.body["type"] == kind]
        body = Webhook(hooked.secrets[webhook]).verify(got[kind].raw, got[kind].headers)
        assert {name: body["data"].get(name) for name in facts} == facts
        assert set(body["data"]) <= {*NOTIFIED[kind], "by", "count"}
        assert body["link"].startswith(f"{ISSUER}/console")
    assert "need" not in got["policy.loaded"].raw
    assert got["operator.recovered"].body["data"]["by"].startswith("host:")
    assert hooked.receiver.at("/204") == []


@pytest.mark.sqlite
def test_a_webhook_of_all_kinds_gets_later_kinds(hooked: Hooked, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a choice it gets all, also those of a later version; the list shows all."""
    webhook = hooked.add()
    assert hooked.shown(webhook)["events"] == list(NOTIFIED)
    assert hooked.shown(hooked.add("/201", events=list(NOTIFIED)))["events"] == list(NOTIFIED)
    monkeypatch.setattr("arx_caps.mint.db.notices.NOTIFIED", {**NOTIFIED, "of.a.later.version": ()})
    hooked.harness.mint.db.record(Event.of("of.a.later.version", "mint"))
    for path in ("/200", "/201"):
        hooked.wait("of.a.later.version", path)
