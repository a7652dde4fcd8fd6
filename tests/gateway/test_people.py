# SPDX-License-Identifier: Apache-2.0
"""People's own accounts upstream: two people, one template, one gateway; the upstream sees two names."""

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from tests.gateway.people import PeopleWorld, people
from tests.servers import until

pytestmark = [pytest.mark.servers, pytest.mark.spec("CONTROL 9.2", "CONTROL 9.3")]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PeopleWorld]:
    """One realm with its gateway for the tests of this file."""
    with people(tmp_path_factory.mktemp("people")) as made:
        yield made


def asked(client: httpx.Client, path: str = "/items/1", method: str = "GET") -> httpx.Response:
    """Make a call, again while the gateway's verifier has just started."""
    answers: list[httpx.Response] = []

    def is_taken() -> bool:
        answers.append(client.request(method, path))
        codes = ("proof_invalid", "syncing", "stale")
        return answers[-1].is_success or answers[-1].json().get("code") not in codes

    until(is_taken)
    return answers[-1]


def connections(world: PeopleWorld, **query: str) -> list[dict[str, Any]]:
    words = [word for name, value in query.items() for word in (f"--{name}", value)]
    found: list[dict[str, Any]] = world.arx("connection", "list", *words)["connections"]
    return found


def test_two_people_one_template_and_the_upstream_sees_two_names(world: PeopleWorld) -> None:
    """Each connects once; each tool has its scopes; one is ended, and the other goes on."""
    with (
        world.task("ann") as first,
        world.task("bob") as second,
        world.client(first) as ann,
        world.client(second) as bob,
    ):
        for client, person, account in ((ann, "ann", "ann-t"), (bob, "bob", "bob-t")):
            missing = asked(client)
            assert (missing.status_code, missing.json()["code"]) == (403, "connection_missing"), missing.text
            assert missing.json()["may_have_run"] is False
            link = missing.json()["connect_url"]
            assert f"{person} has not connected tracker. Ask {person} to open {link}" in missing.json()["detail"]
            done = world.connect(link, person, account)
            assert (done.status_code, "Connected" in done.text) == (200, True), done.text
        for client, account in ((ann, "ann-t"), (bob, "bob-t"), (ann, "ann-t")):
            assert asked(client).json() == {"sub": account, "scope": "repo.read"}
            assert asked(client, method="POST").json() == {"sub": account, "scope": "repo.read repo.write"}
        assert world.arx("connection", "rotate")["rotated"] == 2
        for client, account in ((ann, "ann-t"), (bob, "bob-t")):
            assert asked(client, method="POST").json() == {"sub": account, "scope": "repo.read repo.write"}
        listed = {each["person"]: each for each in connections(world)}
        assert {name: each["account"] for name, each in listed.items()} == {"ann": "ann-t", "bob": "bob-t"}
        ended = world.arx("connection", "end", listed["ann"]["id"], "--reason", "left the team", "--yes")
        assert (ended["connection"]["state"], ended["revoked_upstream"]) == ("ended", True)
        refused = asked(ann)
        assert (refused.status_code, refused.json()["code"]) == (403, "connection_ended")
        trail_names(world, listed["ann"], first.id)
        assert asked(bob).json()["sub"] == "bob-t"
    for secret in world.tracker.secrets:
        assert secret not in world.log()
        for file in (world.folder / "realm").glob("*.db*"):
            assert secret.encode() not in file.read_bytes()


CALLS = 5  # of ann's that the upstream got


def trail_names(world: PeopleWorld, listed: dict[str, Any], task: str) -> None:
    """The log has what became of an account: which agent used it in which task, as whom upstream."""
    found: list[dict[str, Any]] = []

    def is_whole() -> bool:
        found[:] = world.arx("audit", "trail", "--connection", listed["id"])["records"]
        kinds = [each.get("kind") for each in found]
        return "connection.ended" in kinds and len(kinds) - len(list(filter(None, kinds))) == CALLS

    until(is_whole)
    events = [each for each in found if each["type"] == "event"]
    assert events[0]["kind"] == "connection.connected"
    effects = [each for each in found if each["type"] == "decision"]
    assert {(each["code"], each["task"], each["effect"]["result"]) for each in effects} == {("effect", task, "done")}
    its = [each["credential"] for each in effects]
    assert {(each["kind"], each["connection"], each["account"]) for each in its} == {("person", listed["id"], "ann-t")}
    by_tool = sorted((each["tool"], *each["credential"]["scopes"], each["credential"]["source"]) for each in effects)
    put = ("tracker.put", "repo.read", "repo.write")
    read = ("tracker.get", "repo.read")
    assert by_tool == [(*read, "cached"), (*read, "fetched"), (*put, "cached"), (*put, "cached"), (*put, "fetched")]
    lent = [each for each in events if each["kind"] == "connection.lent"]
    assert {(each["named"]["agent"], each["named"]["task"]) for each in lent} == {("acme/a1", task)}
    assert {each["facts"]["account"] for each in lent} == {"ann-t"}
    of_person = world.arx("audit", "trail", "--subject", listed["subject"], "--tool", "connection.lent")["records"]
    assert {each["index"] for each in of_person} == {each["index"] for each in lent}
    for kind in ("connection.connected", "connection.ended"):
        of_person = world.arx("audit", "trail", "--subject", listed["subject"], "--tool", kind)["records"]
        assert [each["named"]["connection"] for each in of_person] == [listed["id"]]


@contextlib.contextmanager
def connected(world: PeopleWorld, person: str) -> Iterator[httpx.Client]:
    """A client of a task that acts for a person, who has connected the account ``PERSON-t``."""
    with world.task(person) as task, world.client(task) as client:
        first = asked(client)
        if not first.is_success:
            done = world.connect(first.json()["connect_url"], person, f"{person}-t")
            assert "Connected" in done.text, done.text
        assert asked(client).json()["sub"] == f"{person}-t"
        yield client


def link_for(world: PeopleWorld, person: str) -> str:
    with world.task(person) as task, world.client(task) as client:
        return str(asked(client).json()["connect_url"])


def test_a_link_is_for_one_person_and_once(world: PeopleWorld) -> None:
    """Mallory cannot use Ann's link, nor can Ann use hers again."""
    link = link_for(world, "carol")
    with httpx.Client(timeout=30) as browser:
        refused = world.visit(browser, link, "mallory")
    assert (refused.status_code, "is for carol, and you are logged in as mallory" in refused.text) == (400, True)
    assert "Connected" in world.connect(link, "carol", "carol-t").text
    with httpx.Client(timeout=30) as browser:
        again = world.visit(browser, link, "carol")
    assert (again.status_code, "was used" in again.text) == (400, True)


def test_the_answer_of_another_browser_is_refused(world: PeopleWorld) -> None:
    """Mallory's code in Dan's browser, and Dan's word from another page, connect nothing."""
    link, other = link_for(world, "dan"), link_for(world, "mallory")
    world.tracker.person = "mallory-t"
    with httpx.Client(timeout=30) as mine, httpx.Client(timeout=30) as theirs:
        world.login.person = {"sub": "mallory"}
        at = theirs.get(other)
        while not at.headers["location"].startswith(f"{world.issuer}/connect/callback/"):
            at = theirs.get(
                at.headers["location"] if "://" in at.headers["location"] else world.issuer + at.headers["location"]
            )
        stolen = at.headers["location"]
        page = world.visit(mine, link, "dan")
        assert page.status_code == 200
        refused = mine.get(stolen)
        assert (refused.status_code, "begun no login" in refused.text) == (400, True)
        forged = mine.post(f"{world.issuer}/connect/account", data={"token": "A" * 51, "answer": "allow"})
        assert forged.status_code == 400
        foreign = world.press(theirs, page)
        assert foreign.status_code == 400
        # Its own browser uses it once.
        assert theirs.get(stolen).status_code == 303
        assert theirs.get(stolen).status_code == 400
    assert not {"dan", "mallory"} & {each["person"] for each in connections(world)}


@pytest.mark.parametrize("answer", [{"iss": "https://other.example"}, {"iss": ""}, {"state": "other"}])
def test_an_answer_of_another_issuer_or_attempt_is_refused(world: PeopleWorld, answer: dict[str, str]) -> None:
    """By ``iss``, which this issuer announces, and by ``state``; nothing is stored."""
    link = link_for(world, "erin")
    world.tracker.answer = answer
    try:
        with httpx.Client(timeout=30) as browser:
            assert world.visit(browser, link, "erin").status_code == 400
    finally:
        world.tracker.answer = {}
    assert "erin" not in {each["person"] for each in connections(world)}


def test_an_account_of_another_person_and_a_no_connect_nothing(world: PeopleWorld) -> None:
    """A second person with the same account is refused; after a no, its tokens are revoked."""
    with connected(world, "frank"):
        link = link_for(world, "grace")
        assert "another person has connected this account" in world.connect(link, "grace", "frank-t").text.lower()
    declined = world.connect(link_for(world, "grace"), "grace", "grace-t", "deny")
    assert "Nothing was connected" in declined.text
    assert not any(found and found[0] == "grace-t" for found in world.tracker.grants.values())
    assert "grace" not in {each["person"] for each in connections(world)}


@pytest.mark.spec("CONTROL 9.4", "10.1")
def test_a_freeze_and_a_kill_of_a_connection_end_its_use(world: PeopleWorld) -> None:
    """Within the lease at the gateway too, which has its token in memory; a thaw brings a frozen one back."""
    with connected(world, "henry") as client, connected(world, "iris") as other:
        [own] = [each for each in connections(world) if each["person"] == "henry"]
        target = f"connection:{own['id']}"
        world.order("freeze", target)
        seen = len(world.tracker.seen)
        frozen = asked(client)
        assert (frozen.status_code, frozen.json()["code"]) == (503, "connection_unavailable")
        assert frozen.headers["retry-after"] == "2"
        assert len(world.tracker.seen) == seen
        world.order("thaw", target)
        assert asked(client).json()["sub"] == "henry-t"
        world.order("kill", target)
        assert asked(client).json()["code"] == "connection_ended"
        assert asked(other).json()["sub"] == "iris-t"
        [shown] = [each for each in connections(world) if each["person"] == "henry"]
        assert shown["state"] == "killed"


def test_a_kill_of_a_person_ends_the_use_of_all_connections(world: PeopleWorld) -> None:
    """Also for a task that the person starts after the thaw: the account has to be connected again."""
    with connected(world, "jane") as client:
        [own] = [each for each in connections(world) if each["person"] == "jane"]
        world.order("kill", own["subject"])
        assert asked(client).json()["code"] in ("revoked", "frozen")
        world.order("thaw", own["subject"])
        with world.task("jane") as task, world.client(task) as later:
            assert asked(later).json()["code"] == "connection_ended"


def test_what_the_issuer_and_the_upstream_refuse_has_a_code(world: PeopleWorld) -> None:
    """403 is the person's; an issuer that is silent is a wait; one that has ended the grant asks the person again."""
    with connected(world, "kate") as client:
        world.tracker.denies = {"kate-t"}
        denied = asked(client)
        assert (denied.status_code, denied.json()["code"], denied.json()["may_have_run"]) == (
            403,
            "upstream_denied",
            True,
        )
        assert "tracker refused kate, not ARx" in denied.json()["detail"]
        world.tracker.denies = set()
        # The gateway drops a token that is refused some seconds after it was lent; the mint then refreshes.
        world.tracker.end()
        refused = asked(client)
        assert (refused.status_code, refused.json()["code"]) == (503, "connection_unavailable")
        assert "tracker refused the token of the person's account" in refused.json()["detail"]
        assert 1 <= int(refused.headers["retry-after"]) <= 5
        with world.task("kate") as task, world.client(task) as later:
            until(lambda: asked(later).json().get("code") == "connection_ended")


def test_a_session_without_a_subject_and_a_task_without_scopes_get_none(world: PeopleWorld) -> None:
    """The policy must name the scopes, and the session a person."""
    with world.task(None, "alone") as task, world.client(task) as client:
        assert asked(client).json()["code"] == "subject_required"
    with world.task("lena", "alone") as task, world.client(task) as client:
        refused = asked(client)
        assert (refused.status_code, refused.json()["code"]) == (403, "connection_refused")
        assert "add `upstream` to [task.alone]" in refused.json()["detail"]


def test_a_token_that_the_upstream_echoes_is_not_passed_on(world: PeopleWorld) -> None:
    """The agent never sees it, whichever person's it is."""
    with connected(world, "mona") as first, connected(world, "nick") as second:
        for client in (first, second):
            echoed = asked(client, "/items/echo")
            assert (echoed.status_code, "canary" in echoed.text) == (502, False)
            assert "answered with its credential" in echoed.json()["detail"]


def test_no_argument_selects_a_person_or_an_account(world: PeopleWorld) -> None:
    """Rose's agent names Quinn's connection, account and person in each place of a call, and gets Rose's account."""
    with connected(world, "quinn"), connected(world, "rose") as mallory:
        [own] = [each for each in connections(world) if each["person"] == "quinn"]
        named = {"connection": own["id"], "account": own["account"], "subject": own["subject"], "person": "quinn"}
        for found in (
            mallory.post("/items/1", json=named),
            mallory.post("/items/1", headers={f"x-arx-{name}": value for name, value in named.items()}),
            mallory.get(f"/items/{own['id']}"),
        ):
            assert (found.status_code, found.json()["sub"]) == (200, "rose-t"), found.text
        asked_with = mallory.get("/items/1", params=named)
        assert asked_with.json().get("sub") in (None, "rose-t")


def test_calls_of_several_people_at_once_are_each_their_own(world: PeopleWorld) -> None:
    """Whatever is kept, fetched or refreshed meanwhile: each answer has the account of the caller's person."""
    with connected(world, "olga") as first, connected(world, "paul") as second:
        people = [(first, "olga-t"), (second, "paul-t")]

        def work(number: int) -> bool:
            client, account = people[number % 2]
            method, scope = (("GET", "repo.read"), ("POST", "repo.read repo.write"))[number // 2 % 2]
            found: bool = asked(client, method=method).json() == {"sub": account, "scope": scope}
            return found

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(80)))


def test_an_issuer_that_lowers_the_scopes_of_a_refresh_token_has_the_person_asked(
    world: PeopleWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against RFC 6749 6: a call that needs more gets the link, and goes on once the person has connected again."""
    issue = world.tracker._tokens

    def lowered(person: str, _: str, scope: str, nonce: str | None = None) -> dict[str, Any]:
        return issue(person, scope, scope, nonce)

    monkeypatch.setattr(world.tracker, "_tokens", lowered)
    monkeypatch.setattr(world.tracker, "lives_s", 50.0)  # the mint keeps no access token
    with connected(world, "lena") as client:
        refused = asked(client, method="POST")
        assert (refused.status_code, refused.json()["code"]) == (403, "connection_scope"), refused.text
        assert "the connection of lena has less by now. Ask lena to open" in refused.json()["detail"]
        again = world.connect(refused.json()["connect_url"], "lena", "lena-t")
        assert "Connected" in again.text, again.text
        assert asked(client, method="POST").json() == {"sub": "lena-t", "scope": "repo.read repo.write"}
