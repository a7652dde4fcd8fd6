# SPDX-License-Identifier: Apache-2.0
"""Sign in to the console at the realm's issuer: what the browser has to prove, what is recorded, and what ends it."""

import time
from collections.abc import Iterator
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from arx_caps.mint.identity.console_session import needs_fresh
from arx_caps.settings.realm import ConsoleTerms, Login
from tests.console.harness import Browser, link_of, sign_in
from tests.mint.harness import ISSUER, Harness, open_unit
from tests.mint.login import MINT_CLIENT, Issuer, idp  # noqa: F401 - a fixture
from tests.mint.test_operator_login import POLICY
from tests.mint.test_operators import decided

pytestmark = [pytest.mark.sqlite, pytest.mark.spec("CONTROL 6.6")]


class Realm:
    """A realm whose operators log in at an issuer, and the browsers of people."""

    def __init__(self, harness: Harness, issuer: Issuer) -> None:
        self.harness, self.issuer = harness, issuer
        issuer.person = {"sub": "ann", "groups": ["sre"]}
        self.log_in_now()

    def log_in_now(self, ago_s: int = 0) -> None:
        """Let the issuer say that the person logged in this long ago."""
        self.issuer.claims = {"auth_time": int(time.time()) - ago_s}

    def begin(self, browser: Browser, **query: str) -> str:
        """Begin a login, and return the issuer's URL."""
        answer = browser.client.get("/console/login", params=query, follow_redirects=False)
        assert answer.status_code == 303, answer.text
        return answer.headers["location"]

    def log_in(self, browser: Browser, **query: str) -> str:
        """Log in, and return the page that the issuer leads to."""
        back = httpx.get(self.begin(browser, **query)).headers["location"]
        return browser.get(back.removeprefix(ISSUER))


@pytest.fixture
def realm(idp: Issuer, tmp_path: Path, realm_template: Path) -> Iterator[Realm]:  # noqa: F811
    login = Login(idp.url, MINT_CLIENT, "env:ARX_TEST_LOGIN_SECRET", "openid groups")
    policy = POLICY.format(issuer=idp.url)
    with open_unit(tmp_path / "realm", template=realm_template, policy=policy, login=login) as harness:
        yield Realm(harness, idp)


def cookies(browser: Browser) -> dict[str, str]:
    assert browser.page is not None
    return {line.partition("=")[0]: line for line in browser.page.headers.get_list("set-cookie")}


def test_a_person_signs_in_and_each_page_is_recorded(realm: Realm) -> None:
    """The page before leads to the login, and the login back to the page; records name the operator and the way."""
    browser = Browser(realm.harness)
    page = browser.get("/console/now?x=1")
    assert f"Sign in at {urlsplit(realm.issuer.url).netloc}" in page
    assert "/console/login?next=%2Fconsole%2Fnow%3Fx%3D1" in page
    page = realm.log_in(browser, next="/console/now?x=1")
    # A page and no redirect: the session's cookie is not sent with another site's request.
    assert browser.status == 200
    assert '<meta http-equiv="refresh" content="0; url=/console/now?x=1">' in page
    session = cookies(browser)["arx-console"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= {part.strip() for part in session.split(";")}
    assert "<h1>Now</h1>" in browser.get("/console/now?x=1")
    assert "corp.ann" in (browser.page.text if browser.page else "")
    rows = [(row.tool, row.code, row.facts.assurance) for row in decided(realm.harness, "corp.ann")]
    read = [(tool, "ok", "console-login") for tool in ("arx.status.read", "arx.audit.read")]  # for the page Now
    assert rows == [("arx.login", "ok", "login"), *read]
    events = {event["kind"]: event for event in realm.harness.events()}
    assert events["operator.logged_in"]["subject"] == "ann"
    assert events["console.signed_in"]["by"] == "operator:corp.ann"


def test_a_refused_act_is_recorded(realm: Realm) -> None:
    """A click on what the role may not do: a clear page, and a record with operator, assurance and action."""
    realm.issuer.person["groups"] = ["audit"]
    browser, other = Browser(realm.harness), sign_in(realm.harness)
    realm.log_in(browser)
    page = browser.get("/console/sign-ins")
    assert "/end" not in page
    which = realm.harness.mint.db.console_sessions.list()[-1].id
    browser.post(f"/console/sign-ins/{which}/end")
    assert browser.status == 403
    row = decided(realm.harness, "corp.ann")[-1]
    assert (row.tool, row.code, row.facts.assurance) == ("arx.console.end", "tool_not_allowed", "console-login")
    assert "<h1>Now</h1>" in other.get("/console/now")


def test_a_person_without_a_role_gets_a_clear_page(realm: Realm) -> None:
    """And no cookie."""
    realm.issuer.person = {"sub": "eve", "groups": ["support"]}
    browser = Browser(realm.harness)
    page = realm.log_in(browser)
    assert browser.status == 403
    assert "[[operator]]" in page
    assert "arx-console" not in cookies(browser)


def test_a_role_that_is_taken_away_ends_at_the_next_page(realm: Realm) -> None:
    """Without a new login."""
    browser = Browser(realm.harness)
    realm.log_in(browser)
    realm.harness.use(POLICY.format(issuer=realm.issuer.url).replace('groups = "sre"', 'groups = "other"'))
    browser.get("/console/now")
    assert (browser.status, decided(realm.harness, "corp.ann")[-1].code) == (403, "no_role")


def test_a_frozen_operator_sees_nothing_more(realm: Realm) -> None:
    """As soon as the mint has applied the freeze."""
    browser = Browser(realm.harness)
    realm.log_in(browser)
    realm.harness.epochs.freeze("operator:corp.ann")
    browser.get("/console/now")
    assert browser.status in (401, 403)
    assert decided(realm.harness, "corp.ann")[-1].code == "frozen"


def test_an_answer_is_for_the_browser_that_began(realm: Realm) -> None:
    """An attacker's answer signs no user in as the attacker: the state is the browser's own, and used once."""
    attacker, victim = Browser(realm.harness), Browser(realm.harness)
    back = httpx.get(realm.begin(attacker)).headers["location"].removeprefix(ISSUER)
    victim.get(back)
    assert victim.status == 400
    realm.begin(victim)
    victim.get(back)
    assert victim.status == 401
    assert "arx-console" not in {name for name, text in victim.client.cookies.items() if text}
    attacker.get(back)
    assert attacker.status == 200
    attacker.get(back)  # again
    assert attacker.status in (400, 401)


@pytest.mark.parametrize(
    "claims",
    [{"nonce": "x"}, {"aud": "other"}, {"azp": "other"}, {"iss": "https://other.example"}, {"exp": 1}],
)
def test_a_wrong_id_token_signs_no_user_in(realm: Realm, claims: dict[str, Any]) -> None:
    """Of another login, another program, another issuer, or an old one."""
    realm.issuer.claims |= claims
    browser = Browser(realm.harness)
    realm.log_in(browser)
    assert browser.status == 401
    assert "arx-console" not in cookies(browser)


@pytest.mark.parametrize(
    "bad", ["//evil.example/", "https://evil.example/console/", "/console/\\evil", "/console/login"]
)
def test_the_page_after_the_login_is_one_of_the_console(realm: Realm, bad: str) -> None:
    """Whatever the address of the login says."""
    page = realm.log_in(Browser(realm.harness), next=bad)
    assert 'content="0; url=/console/home"' in page


def test_another_site_begins_no_login(realm: Realm) -> None:
    """It would make people log in, or end the session that they have."""
    browser = Browser(realm.harness)
    for site in ("cross-site", "same-site"):
        answer = browser.client.get("/console/login", headers={"Sec-Fetch-Site": site}, follow_redirects=False)
        assert answer.headers["location"] == "/console/sign-in"
        assert "set-cookie" not in answer.headers


def test_a_link_of_another_site_finds_the_operator_signed_in(realm: Realm) -> None:
    """A browser sends no strict cookie with it: a page leads on, and that is the console's own request."""
    browser = Browser(realm.harness)
    page = browser.client.get(
        "/console/now?x=1", headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    )
    assert 'content="0; url=/console/now?x=1"' in page.text
    page = browser.client.get("/console/now", headers={"Sec-Fetch-Site": "same-origin", "Sec-Fetch-Mode": "navigate"})
    assert "Sign in" in page.text


def test_a_new_sign_in_ends_the_one_before(realm: Realm) -> None:
    """Its cookie has another secret, and the old one opens nothing."""
    browser, old = Browser(realm.harness), Browser(realm.harness)
    realm.log_in(browser)
    before = browser.client.cookies["arx-console"]
    realm.log_in(browser)
    assert browser.client.cookies["arx-console"] != before
    old.client.cookies.set("arx-console", before)
    assert "Sign in at" in old.get("/console/now")
    assert len(realm.harness.mint.db.console_sessions.list()) == 1


def old_sign_in(realm: Realm) -> Browser:
    """Return a browser whose operator signed in an hour ago at the issuer."""
    realm.issuer.person["groups"] = ["admins"]
    text = POLICY.format(issuer=realm.issuer.url)
    realm.harness.use(text + '\n[[operator]]\nissuer = "corp"\nclaims = { groups = "admins" }\nrole = "admin"\n')
    realm.log_in_now(ago_s=3600)
    browser = Browser(realm.harness)
    realm.log_in(browser)
    return browser


def test_an_act_that_grants_asks_to_sign_in_again(realm: Realm, grants: str) -> None:
    """The form waits, and goes on with what was typed; the refusal and the act are recorded."""
    browser = old_sign_in(realm)
    browser.get("/console/now")
    page = browser.post(grants, outcome="approve", why="typed & kept")
    assert "needs a recent sign-in" in page
    assert decided(realm.harness, "corp.ann")[-1].code == "sign_in_again"
    link = parse_qs(urlsplit(unescape(page.partition('href="/console/login?')[2].partition('"')[0])).path)
    assert (link["next"], link["again"]) == (["/console/continue"], ["1"])
    asked = parse_qs(urlsplit(realm.begin(browser, next="/console/continue", again="1")).query)
    assert (asked["prompt"], asked["max_age"]) == (["login"], ["600"])
    # An issuer that took no notice: its login is as old as before, or it does not say.
    for claims in ({"auth_time": int(time.time()) - 3600}, {"auth_time": None}, {"auth_time": True}):
        realm.issuer.claims = claims
        realm.log_in(browser, next="/console/continue", again="1")
        assert browser.status == 401
    realm.log_in_now()
    page = realm.log_in(browser, next="/console/continue", again="1")
    assert "url=/console/continue" in page
    page = browser.get("/console/continue")
    assert "typed &amp; kept" in page
    assert f'action="{grants}"' in page
    browser.post(grants, outcome="approve", why="typed & kept")
    assert decided(realm.harness, "corp.ann")[-1].code == "ok"


def test_a_thaw_waits_for_the_sign_in(realm: Realm) -> None:
    """Like any act that grants: the form waits, and goes on with what was typed."""
    browser = old_sign_in(realm)
    browser.get("/console/now")
    page = browser.post("/console/kill", do="go", what="thaw", targets="agent:acme/x", reason="typed & kept")
    assert "needs a recent sign-in" in page
    assert decided(realm.harness, "corp.ann")[-1].code == "sign_in_again"
    realm.log_in_now()
    realm.log_in(browser, next="/console/continue", again="1")
    page = browser.get("/console/continue")
    assert "typed &amp; kept" in page
    assert 'action="/console/kill"' in page


@pytest.fixture
def grants() -> str:
    """The target of a form that grants: an approval, whose id is unknown here."""
    return "/console/approvals/a-0123456789abcdef"


def test_a_denial_and_an_end_never_wait(realm: Realm, grants: str) -> None:
    """At three in the morning nothing that ends or refuses asks to sign in again."""
    browser = old_sign_in(realm)
    browser.get("/console/now")
    browser.post(grants, outcome="deny", why="no")
    assert decided(realm.harness, "corp.ann")[-1].code == "ok"
    sign_in(realm.harness)
    which = next(each.id for each in realm.harness.mint.db.console_sessions.list() if each.operator == "root")
    browser.get("/console/now")
    assert which not in browser.post(f"/console/sign-ins/{which}/end")
    assert browser.status == 200


@pytest.mark.parametrize(
    ("action", "args", "needed"),
    [
        ("arx.kill", {"targets": ["agent:acme/x"]}, False),
        ("arx.kill", {"targets": ["agent:acme/x", "realm"]}, True),
        ("arx.freeze", {"targets": ["realm"]}, False),
        ("arx.thaw", {"targets": ["agent:acme/x"]}, True),
        ("arx.approve", {"outcome": "approve"}, True),
        ("arx.approve", {"outcome": "deny"}, False),
        ("arx.approve", {"approval": "a-1"}, False),  # a withdrawal
        ("arx.policy.write", {}, True),
        ("arx.keys.write", {}, True),
        ("arx.audit.erase", {}, True),
        ("arx.sessions.end", {}, False),
        ("arx.status.read", {}, False),
    ],
)
def test_what_needs_a_recent_sign_in(action: str, args: dict[str, Any], needed: bool) -> None:
    """What grants rights, lifts a freeze, erases, or ends the realm: and nothing that ends or refuses less."""
    assert needs_fresh(action, args) == needed


def test_a_link_of_the_key_signs_in_again_as_well(realm: Realm, grants: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The form waits for it in the same browser."""
    browser = sign_in(realm.harness)
    row = realm.harness.mint.db.console_sessions.list()[0]
    later = row.fresh_until
    monkeypatch.setattr("arx_caps.mint.identity.console_session.now_ms", lambda: later)
    browser.get("/console/now")
    assert "needs a recent sign-in" in browser.post(grants, outcome="approve")
    monkeypatch.undo()
    link = link_of(realm.harness.operator())
    browser.get(link)
    page = browser.post("/console/open", link=parse_qs(urlsplit(link).query)["link"][0])
    assert f'action="{grants}"' in page


@pytest.mark.slow
def test_a_sign_in_ends_by_time(realm: Realm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unused after the idle time; used, after its life."""
    terms = realm.harness.realm.console
    assert terms == ConsoleTerms(15 * 60_000, 8 * 3_600_000, 10 * 60_000)
    browser = Browser(realm.harness)
    realm.log_in(browser)
    begun = realm.harness.mint.db.console_sessions.list()[0].signed_in_at
    clock = [begun]
    monkeypatch.setattr("arx_caps.mint.identity.console_session.now_ms", lambda: clock[0])
    while clock[0] < begun + terms.life_ms:
        browser.get("/console/now")
        assert "<h1>Now</h1>" in (browser.page.text if browser.page else "")
        clock[0] += terms.idle_ms - 1
    assert "Sign in at" in browser.get("/console/now")
    clock[0] = begun
    realm.log_in(browser)
    clock[0] += terms.idle_ms
    assert "Sign in at" in browser.get("/console/now")


def test_sign_ins_are_listed_and_ended(realm: Realm) -> None:
    """By the API, which the page and the command line use."""
    browser = Browser(realm.harness)
    realm.log_in(browser)
    admin = realm.harness.operator()
    (shown,) = admin.call("GET", "/v1/console/sessions").json()["sign_ins"]
    assert (shown["operator"], shown["by"], shown["key"]) == ("corp.ann", "login", None)
    assert admin.call("DELETE", f"/v1/console/sessions/{shown['id']}").json()["operator"] == "corp.ann"
    assert admin.call("DELETE", f"/v1/console/sessions/{shown['id']}").status_code == 404
    assert "Sign in at" in browser.get("/console/now")


def test_a_browser_is_never_signed_in_over_plain_http(realm: Realm) -> None:
    """Only at this machine: elsewhere the cookie would be read on its way."""
    browser, link = Browser(realm.harness), link_of(realm.harness.operator())
    object.__setattr__(realm.harness.realm, "issuer", "http://mint.example")
    browser.get("/console/login")
    assert browser.status == 409
    browser.post("/console/open", {"Origin": "http://mint.example"}, link=parse_qs(urlsplit(link).query)["link"][0])
    assert browser.status == 409
