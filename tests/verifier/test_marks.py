# SPDX-License-Identifier: Apache-2.0
"""Marks: random histories against a plain reference, in memory and in a real Valkey; services that set them."""

import asyncio
import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from arx_verifier import Rule
from arx_verifier.clock import now_ms
from arx_verifier.enforcement.asgi.asgi import ArxMiddleware
from arx_verifier.enforcement.grants.call_effect import CallEffect
from arx_verifier.enforcement.wsgi.wsgi import ArxWSGI
from arx_verifier.errors import AccessError, SettingsError, StoreError, refusal
from arx_verifier.journal.decision import Decision, InMemoryDecisions, unpack, unpack_record
from arx_verifier.journal.record import seal
from arx_verifier.ledger.leases import LeasedLedger
from arx_verifier.ledger.memory import MemoryLedger
from arx_verifier.ledger.pools import MAX_MARK_FIELDS, MarkQuestion, Stopped, Taken
from arx_verifier.refusal_text import refusal_for_model
from arx_verifier.request import AccessRequest
from arx_verifier.revocation.epoch import show_until
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.token.keyring import KeyRing
from arx_verifier.verification.verifier import Verifier
from tests.adapters.asgi_server import serving
from tests.ledgers import begin, look, new_ledger, only_bucket
from tests.support import verifier
from tests.vectors.mark_vectors import policy, rows
from tests.vectors.second import ANYTHING, AT, INCARNATION, KEY, mint
from tests.vectors.subject import _view_of
from tests.verifier.mark_histories import DIGESTS, OUTCOMES, at_server, in_memory, outcome
from tests.verifier.test_watch import serving_wsgi

pytestmark = pytest.mark.spec("21.4")


def test_random_histories() -> None:
    """The ledger decides each call as a list of the calls before it does."""
    assert set(in_memory(0, 3_000)) == OUTCOMES


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a Valkey server."""
    embedded = pytest.importorskip("arx_caps.embedded")
    with embedded.EmbeddedValkey(Path(tmp_path_factory.mktemp("marks"))) as valkey:
        yield valkey.url


@pytest.mark.servers
def test_random_histories_at_a_server(server: str) -> None:
    """So does the function of the server, by its own clock."""
    assert set(at_server(0, 150, server)) == OUTCOMES


def question(**changes: Any) -> MarkQuestion:
    """A question of a session that was opened just now."""
    return MarkQuestion("s-1", now_ms(), now_ms(), "web.get web")._replace(**changes)


@pytest.mark.servers
def test_a_server_shows_who_set_a_mark_and_counts_from_the_later_clock(server: str) -> None:
    """The first call that set a warning; `within` by a verifier's clock that is ahead."""
    ledger = new_ledger(server, "who")
    begin(ledger)
    ledger.take("draw", "", (), None, question(sets=("w:s:untrusted", "p:s:ok")))
    ledger.take("draw", "", (), None, question(sets=("w:s:untrusted",), by="other.get web"))
    stopped = ledger.take("draw", "", (), None, question(after=((("w:t/1:untrusted", "w:s:untrusted"),),)))
    assert isinstance(stopped, Stopped)
    assert stopped.found[0].partition(" ")[2] == "web.get web"
    within = question(only_after=((("p:s:ok",), 3_600_000),))
    assert isinstance(ledger.take("draw", "", (), None, within), Taken)
    late = ledger.take("draw", "", (), None, within._replace(at=now_ms() + 3_600_000))
    assert isinstance(late, Stopped)
    assert late.member == "only_after"
    set_at = int(fields_of(ledger)["p:s:ok"].partition(" ")[0])
    last = within._replace(at=set_at + 3_599_999)
    for at, expected in ((last, "taken"), (last._replace(at=last.at + 1), ("only_after", 0))):
        assert outcome(ledger.take("draw", "", (), None, at)) == expected
    while now_ms() <= set_at + 1:
        pass  # the ledger's clock is later than that of a verifier which is behind
    behind = question(only_after=((("p:s:ok",), 1),), at=set_at - 60_000)
    assert outcome(ledger.take("draw", "", (), None, behind)) == ("only_after", 0)
    ledger.close()


@pytest.fixture
def ledgers(server: str, request: pytest.FixtureRequest) -> Iterator[list[Any]]:
    """A ledger in memory, and one at a server, which have begun."""
    ledger = new_ledger(server, request.node.name)
    begin(ledger)
    yield [MemoryLedger(), ledger]
    ledger.close()


def fields_of(ledger: Any, session: str = "s-1") -> dict[str, str]:
    """All that a ledger keeps of a session, as text."""
    if isinstance(ledger, MemoryLedger):
        return {
            ":".join(("d", *name)) if isinstance(name, tuple) else name: value
            for name, value in ledger.marks[session][0].items()
        }
    found = ledger._read(only_bucket(ledger), lambda server, at: server.hgetall(at.mark + session))
    return {name.decode(): value.decode() for name, value in found.items()}


@pytest.mark.servers
def test_a_warning_keeps_its_first_call(ledgers: list[Any]) -> None:
    """And a proof its last one."""
    for ledger in ledgers:
        for by in ("first web", "last web"):
            ledger.take("draw", "", (), None, question(sets=("w:s:untrusted", "p:s:ok"), by=by))
        kept = fields_of(ledger)
        assert [kept[name].partition(" ")[2] for name in ("w:s:untrusted", "p:s:ok")] == ["first web", "last web"]


@pytest.mark.servers
def test_each_of_several_marks_and_values_counts(ledgers: list[Any]) -> None:
    """A row needs all of its marks, of any field; a further value is one more than those of all calls."""
    for ledger in ledgers:

        def take(ledger: Any = ledger, **row: Any) -> Any:
            return outcome(ledger.take("draw", "", (), None, question(**row)))

        assert take(sets=("w:t/1:a",)) == "taken"
        both = ((("w:s:a", "w:t/1:a"), ("w:s:b", "w:t/1:b")),)
        assert take(after=both) == "taken"
        assert take(sets=("w:s:b",)) == "taken"
        assert take(after=((("w:s:x",),), *both)) == ("after", 1)
        values = [("x", 2, (digest,)) for digest in DIGESTS]
        assert [take(distinct=(each,)) for each in (values[0], values[0], values[1])] == ["taken"] * 3
        assert take(distinct=(("y", 1, DIGESTS[:1]), values[2])) == ("distinct", 1)
        assert take(distinct=(("y", 1, DIGESTS[1:2]), values[1])) == "taken", "what was refused counted nothing"


@pytest.mark.servers
@pytest.mark.spec("21.5")
def test_a_session_of_the_future_waits(ledgers: list[Any]) -> None:
    """A minute is as far ahead as the clock of a mint may be; nothing is set before."""
    for ledger in ledgers:
        for row in ({"sets": ("w:s:a",)}, {"after": ((("w:s:b",),),)}):
            early = question(session="s-3", opened=now_ms() + 3_600_000, **row)
            assert outcome(ledger.take("draw", "", (), None, early)) == ("early", 0)
            soon = early._replace(session="s-4", opened=now_ms() + 30_000)
            assert outcome(ledger.take("draw", "", (), None, soon)) == "taken"
        known = ledger.marks if isinstance(ledger, MemoryLedger) else fields_of(ledger, "s-3")
        assert "s-3" not in known
        assert "w:s:a" not in known


@pytest.mark.servers
@pytest.mark.spec("21.5")
def test_a_server_that_begins_anew_has_every_warning_and_no_proof(server: str) -> None:
    """A session of before has lost its marks; one that is opened after the beginning has none."""
    ledger = new_ledger(server, "lost")
    begin(ledger)
    before = question(sets=("p:s:ok",))
    ledger.take("draw", "", (), None, before)
    ledger.begin_anew()
    rows = {
        "after": question(after=((("w:s:never",),),)),
        "only_after": question(only_after=((("p:s:ok",), 0),)),
        "distinct": question(distinct=(("x", 5, (DIGESTS[0],)),)),
    }
    for member, asked in rows.items():
        stopped = ledger.take("draw", "", (), None, asked._replace(opened=before.opened))
        assert isinstance(stopped, Stopped), member
        assert stopped.member == member
    ledger._read(only_bucket(ledger), lambda server, at: server.hset(at.header, "since", str(now_ms() - 1)))
    later = rows["after"]._replace(session="s-2", opened=now_ms())
    assert isinstance(ledger.take("draw", "", (), None, later), Taken)
    ledger.close()


@pytest.mark.servers
@pytest.mark.spec("21.5")
def test_a_registered_session_counts_until_the_next_beginning(tmp_path: Path) -> None:
    """Others count if they were opened after the beginning, and not at its time."""
    embedded = pytest.importorskip("arx_caps.embedded")
    with embedded.EmbeddedValkey(tmp_path) as valkey:
        ledger = new_ledger(valkey.url, "registered")
        begin(ledger)
        ledger.seal("one end")
        assert not ledger.open("another end")
        ledger._look()
        since, opened = look(ledger)[1], now_ms()

        def judged(session: str, opened: int) -> Any:
            asked = question(session=session, opened=opened, after=((("w:s:never",),),))
            return outcome(ledger.take("draw", "", (), None, asked))

        assert ledger.register_session("s-1", opened)
        assert [judged("s-1", opened), judged("s-2", opened)] == ["taken", ("after", 0)]
        assert [judged("s-3", since), judged("s-4", since + 1)] == [("after", 0), "taken"]
        assert not fields_of(ledger, "s-4"), "a call that sets nothing leaves nothing"
        sets = question(opened=opened, sets=("w:s:seen",))
        assert outcome(ledger.take("draw", "", (), None, sets)) == "taken", "no other server may answer beside this one"
        ledger.begin_anew()
        assert judged("s-1", opened) == ("after", 0)
        assert outcome(ledger.take("draw", "", (), None, sets)) == "short", "another one may"
        ledger.close()


@pytest.mark.servers
def test_a_server_bounds_the_fields_of_a_session(server: str) -> None:
    """A holder that delegates without end fills its own session alone, and no call of it is allowed then."""
    ledger, memory = new_ledger(server, "full"), MemoryLedger()
    begin(ledger)
    for each in (ledger, memory):
        for start in range(0, MAX_MARK_FIELDS - 2, 1000):
            fields = tuple(f"w:l/{n}:m" for n in range(start, min(start + 1000, MAX_MARK_FIELDS - 2)))
            assert isinstance(each.take("draw", "", (), None, question(sets=fields)), Taken)
        more = question(sets=("w:s:one", "w:s:two"))
        assert outcome(each.take("draw", "", (), None, more)) == ("full", 0)
        assert isinstance(each.take("draw", "", (), None, more._replace(session="s-2")), Taken)
    ledger.close()


@pytest.mark.servers
def test_a_session_with_many_marks_is_small_at_a_server(server: str) -> None:
    """20 marks, and 5 rows of ``distinct`` that have counted 100 values each."""
    ledger = new_ledger(server, "size")
    begin(ledger)
    marks = tuple(f"{kind}:s:{number}" for kind in "wp" for number in range(10))
    for row in range(5):
        digests = tuple(f"{number:032x}" for number in range(100))
        asked = question(sets=marks, distinct=((f"{row:032x}", 100, digests),))
        assert isinstance(ledger.take("draw", "", (), None, asked), Taken)
    client = ledger._client.redis
    keys = list(client.scan_iter("*{size}*m:s-1"))
    used = sum(client.memory_usage(key, samples=0) for key in keys)
    assert 0 < used < 100_000, used
    ledger.close()


@pytest.mark.servers
@pytest.mark.spec("21.6")
def test_a_question_writes_nothing_but_marks(server: str) -> None:
    """A service that makes up a question changes no field of another kind."""
    ledger = new_ledger(server, "fields")
    begin(ledger)
    ledger.take("draw", "", (), None, question(sets=("o", "u", "n:x", "w:s:a")))
    stopped = ledger.take("draw", "", (), None, question(after=((("o",),),)))
    assert isinstance(stopped, Taken)
    ledger.close()


def service(**more: Any) -> Verifier:
    """A service with a ledger, at the time of the vectors."""
    if "ledger" not in more:
        more["ledger"] = began()
    keys = KeyRing({"k1.0": KEY}, realm="acme")
    return verifier(keys=keys, epochs=_view_of(INCARNATION, 7, {}, {}), **more)


def began() -> MemoryLedger:
    """A ledger that began before the sessions of the vectors."""
    ledger = MemoryLedger(clock=lambda: AT)
    ledger.since = AT - 60_001
    return ledger


def asked(tool: str, **args: Any) -> AccessRequest:
    """A call at the time of the vectors."""
    return AccessRequest(tool, args, AT)


NO_PAY = {"after": [[["untrusted"], ["orders.pay"]]]}
TOKEN = policy(marks=[["call", "untrusted", "session", ["web.*"]], ["from", "tested", "task", ["orders"]]], **NO_PAY)


def test_a_call_that_no_row_names_is_decided_without_a_step() -> None:
    """As a call of a token without rows is; a named one may wait for the ledger."""
    here = service()
    assert isinstance(here._decide(TOKEN.text(), asked("orders.get")), Decision)
    assert not isinstance(here._decide(TOKEN.text(), asked("orders.pay")), Decision)
    assert not isinstance(here.within(marks=["untrusted"])._decide(TOKEN.text(), asked("orders.get")), Decision)


@pytest.mark.spec("19.1")
def test_a_refusal_names_the_mark_and_the_call_that_set_it() -> None:
    """For a program with places, for a model without them; never an argument."""
    here = service()
    assert here.decide(TOKEN.text(), asked("web.get", url="https://secret.example")).allowed
    decision = here.decide(TOKEN.text(), asked("orders.pay"))
    assert [failure.rule for failure in decision.failures] == ["after"]
    text = refusal_for_model("pay", decision.code, decision.failures)
    assert text.startswith(
        "pay was refused: the session must not have untrusted, got untrusted by web.get at orders, 2027-01-15 08:00:00"
    )
    assert "secret" not in text
    assert isinstance(refusal(decision.code, decision.failures), AccessError)


@pytest.mark.spec("21.3")
def test_a_service_sets_only_what_the_rows_have() -> None:
    """A warning of any row, a proof of its own; another name raises."""
    here = service()
    grant = here.verify(TOKEN.text(), asked("orders.get"))
    for name in ("other", "", "private"):
        with pytest.raises(ValueError, match="no rule of this token"):
            grant.mark(name)
    plain = here.verify(policy(**NO_PAY).text(), asked("orders.get"))
    with pytest.raises(ValueError, match="lets orders set"):
        plain.mark("tested")
    asyncio.run(grant.mark_async("untrusted"))
    assert here.decide(TOKEN.text(), asked("orders.pay")).code == "after_mark"


def test_a_mark_that_the_ledger_does_not_keep_raises() -> None:
    """Without an answer of the ledger the program must not answer."""
    here = service()
    grant = here.verify(TOKEN.text(), asked("orders.get"))
    here._budgets.ledger._refuse()
    with pytest.raises(StoreError):
        grant.mark("untrusted")
    assert here.decide(TOKEN.text(), asked("orders.pay")).code == "store_unavailable"
    assert here.decide(TOKEN.text(), asked("orders.get")).allowed, "no row names it: nothing is asked"


@pytest.mark.spec("21.3")
def test_a_service_declares_a_warning_of_all_of_its_calls() -> None:
    """Where a row of the token has it, in the call's one question; a refused call sets nothing."""
    here = service()
    declaring = here.within(marks=["untrusted", "unknown"])
    narrow = TOKEN.with_caveats({"allow": [{"tool": "orders.pay"}]}).text()
    assert declaring.decide(narrow, asked("mail.send")).code == "tool_not_allowed"
    assert here.decide(TOKEN.text(), asked("orders.pay")).allowed
    assert declaring.decide(TOKEN.text(), asked("orders.pay")).allowed
    assert here.decide(TOKEN.text(), asked("orders.pay")).code == "after_mark"
    other = service().within(marks=["untrusted"])
    assert other.decide(TOKEN.text(), asked("orders.get")).allowed, "no row names this tool"
    assert other.decide(TOKEN.text(), asked("orders.pay")).code == "after_mark"
    plain = service().within(marks=["other"])
    plain._budgets.ledger._refuse()
    assert plain.decide(TOKEN.text(), asked("orders.get")).allowed, "no row has it: nothing is asked"


def test_a_declared_warning_is_set_by_calls_that_a_watch_lets_go_on() -> None:
    """A call that would be refused reaches the service all the same."""
    here = service()
    watching = here.within(marks=["untrusted"], mode="watch", until=show_until(now_ms() + 86_400_000))
    token = policy(
        marks=[["call", "seen", "session", ["orders.get"]]],
        after=[[["seen"], ["orders.get"]], [["untrusted"], ["orders.pay"]]],
    ).text()
    assert here.decide(token, asked("orders.get")).allowed
    assert watching.decide(token, asked("orders.get")).watched
    assert here.decide(token, asked("orders.pay")).code == "after_mark"


def test_digests_of_values_are_salted() -> None:
    """By the session and the row, so that a reader of the ledger cannot compare them, and finds no value."""
    here, kept = service(), []
    for session in ("s-aaaabbbbccccdddd", "s-ddddccccbbbbaaaa"):
        token = mint(
            ANYTHING | rows(distinct=[[["mail.send"], ["to"], 2, "task"], [["*"], ["to"], 2, "task"]]), session=session
        )
        assert here.decide(token.text(), asked("mail.send", to="ada@shop.example")).allowed
        fields = here._budgets.ledger.marks[session][0]
        kept += [name[1] for name in fields if isinstance(name, tuple)]
    assert len(set(kept)) == 4
    plain = {hashlib.sha256(text.encode()).hexdigest()[:32] for text in ("ada@shop.example", '{"":"ada@shop.example"}')}
    assert not plain & set(kept)


def test_a_declared_warning_needs_a_ledger() -> None:
    """A verifier that cannot set it does not start."""
    for more in ({"ledger": None}, {"draws": False}):
        with pytest.raises(SettingsError, match="marks are set in the ledger"):
            service(**more).within(marks=["untrusted"])


def test_leases_do_not_decide_what_a_row_names() -> None:
    """A verifier that leases asks the ledger for such a call."""
    ledger = began()
    budget = {"spend": ["p", "calls", "5", "task", AT - 60_000]}
    token = TOKEN.with_caveats(budget).text()
    one, other = (service(ledger=LeasedLedger(ledger)) for _ in range(2))
    assert one.decide(token, asked("orders.pay")).allowed
    assert other.decide(token, asked("web.get")).allowed
    assert one.decide(token, asked("orders.pay")).code == "after_mark"


@pytest.mark.spec("12.7")
def test_a_service_that_watches_sets_warnings() -> None:
    """A call that would be refused goes on, so it sets what it sets."""
    here = service()
    watching = here.within(mode="watch", until=show_until(now_ms() + 86_400_000))
    token = policy(
        marks=[["call", "untrusted", "session", ["web.*"]]], after=[[["untrusted"], ["orders.pay", "web.post"]]]
    ).text()
    assert watching.decide(token, asked("web.get")).allowed
    assert watching.decide(token, asked("orders.pay")).watched
    assert here.decide(token, asked("orders.pay")).code == "after_mark"


@pytest.mark.spec("12.8")
def test_a_proof_of_an_effect_is_set_after_its_record() -> None:
    """An effect that is done sets the proof; one that cannot be recorded sets none."""
    sink = InMemoryDecisions(clock=lambda: AT)
    here = service(decisions=sink)
    token = policy(marks=[["done", "saved", "task", ["db.*"]]], only_after=[["saved", 0, ["deploy.run"]]]).text()
    decision = here.decide(token, asked("db.backup"))
    assert decision.effect is not None
    assert here.decide(token, asked("deploy.run")).code == "mark_missing"
    with CallEffect(here, decision):
        pass
    assert here.decide(token, asked("deploy.run")).allowed
    assert here.decide(token, asked("orders.get")).effect is None


@pytest.mark.spec("12.10")
def test_a_record_has_the_marks_that_its_call_has_set() -> None:
    """Also of a refused call, where the ledger had set them; none that the ledger has refused to set."""
    sink = InMemoryDecisions(clock=lambda: AT)
    here = service(decisions=sink)
    marks = [["call", "untrusted", "session", ["web.*"]], ["call", "untrusted", "task", ["web.get"]]]
    token = policy(marks=[*marks, ["call", "private", "session", ["web.*"]]], after=[[["private"], ["web.post"]]])

    def recorded() -> tuple[str, tuple[str, ...]]:
        read = unpack(sink.decisions[-1].pack())
        return read.code, read.marks

    here.decide(token.text(), asked("orders.get"))
    assert recorded() == ("ok", ())
    for _ in range(2):
        here.decide(token.text(), asked("web.get"))
        assert recorded() == ("ok", ("untrusted", "private")), "set before or not"
    here.decide(token.text(), asked("web.post"))
    assert recorded() == ("after_mark", ())
    watching = here.within(mode="watch", until=show_until(now_ms() + 86_400_000))
    assert watching.decide(token.text(), asked("web.post")).watched
    assert recorded() == ("after_mark", ("untrusted", "private"))
    once = token.with_caveats({"once": ["o-1", AT]}).text()
    for code in ("ok", "already_used"):
        here.decide(once, asked("web.get"))
        assert recorded() == (code, ("untrusted", "private"))
    here._budgets.ledger._refuse()
    here.decide(token.text(), asked("web.get"))
    assert recorded() == ("store_unavailable", ())
    watching.decide(token.text(), asked("web.get"))
    assert recorded() == ("store_unavailable", ())


@pytest.mark.spec("12.10")
@pytest.mark.parametrize(("fails", "expected"), [(False, ("untrusted", "saved")), (True, ("untrusted",))])
def test_the_record_of_an_effect_has_its_later_marks(fails: bool, expected: tuple[str, ...]) -> None:
    """Those that the service has set in the call, and the proofs of an effect that is done."""
    sink = InMemoryDecisions(clock=lambda: AT)
    here = service(decisions=sink)
    rows = [["done", "saved", "task", ["db.*"]], ["call", "untrusted", "session", ["web.*"]]]
    token = policy(marks=rows, only_after=[["saved", 0, ["deploy.run"]]]).text()
    decision = here.decide(token, asked("db.backup"))
    with suppress(OSError), CallEffect(here, decision):
        decision.grant.mark("untrusted")
        if fails:
            raise OSError
    awaited, effect = [unpack_record(*seal(each.pack(), "v", "b", 1)) for each in sink.decisions]
    assert (awaited.marks, effect.marks) == ((), expected)
    assert "marks" not in awaited.to_dict()
    assert effect.to_dict()["marks"] == expected


WEB = {"/page": "web.get", "/mail": "mail.send", "/save": "db.save", "/broken": "db.save", "/deploy": "deploy.run"}


def wsgi_app(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    """A service of tools: one breaks, each other one answers."""
    start_response("500 X" if environ["PATH_INFO"] == "/broken" else "200 OK", [("Content-Length", "2")])
    return [b"ok"]


def asgi_app() -> Starlette:
    """The same."""

    async def answer(request: Request) -> Response:
        return Response(b"ok", 500 if request.url.path == "/broken" else 200)

    return Starlette(routes=[Route(path, answer, methods=["POST"]) for path in WEB])


@pytest.mark.servers
@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_over_http_at_a_server(server: str, kind: str) -> None:
    """Marks, and proofs of effects, of calls over HTTP, in a ledger that waits for a network."""
    realm = UnsafeTestRealm("desk")
    ledger = new_ledger(server, f"http-{kind}")
    realm.opened = begin(ledger)
    realm.verifier = Verifier(
        audience="desk",
        keys=realm.verifier.keys,
        epochs=realm.epochs,
        decisions=realm.decisions,
        ledger=ledger,
    )
    rows = {
        "marks": [["call", "untrusted", "session", ["web.*"]], ["done", "saved", "task", ["db.*"]]],
        "after": [[["untrusted"], ["mail.send"]]],
        "only_after": [["saved", 0, ["deploy.run"]]],
    }
    agent = realm.caller(Rule(tool="*"), marks=rows)
    options: dict[str, Any] = {"verifier": realm.verifier, "tools": {f"POST {path}": WEB[path] for path in WEB}}
    app = ArxMiddleware(asgi_app(), **options) if kind == "asgi" else ArxWSGI(wsgi_app, **options)
    served = serving(app) if kind == "asgi" else serving_wsgi(app)
    with served as port, httpx.Client(trust_env=False, timeout=30, auth=agent) as client:
        paths = ("/mail", "/deploy", "/broken", "/deploy", "/save", "/deploy", "/page", "/mail")
        answers = [client.post(f"http://127.0.0.1:{port}{path}") for path in paths]
    assert [answer.status_code for answer in answers] == [200, 403, 500, 403, 200, 200, 200, 403]
    assert [answers[at].json()["code"] for at in (1, 3, 7)] == ["mark_missing", "mark_missing", "after_mark"]
    assert answers[7].json()["failures"][0]["rule"] == "after"
    ledger.close()
