# SPDX-License-Identifier: Apache-2.0
"""People connect their organization once; its issuer exchanges their tokens for those of each upstream."""

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.gateway.organization import UPSTREAM, Organization
from tests.gateway.people import SECRET, PeopleWorld, people
from tests.gateway.test_people import asked, connections
from tests.realm_folder import RealmFolder
from tests.servers import free_ports, until

pytestmark = [pytest.mark.servers, pytest.mark.spec("CONTROL 9.5")]
CORP = """
[connection.corp]
issuer = "{url}"
client_id = "{client}"
client_secret = "env:ARX_TEST_TRACKER_SECRET"
scopes = ["openid", "offline_access"]
"""
EXCHANGE = (
    CORP
    + f"""
[connection.tracker]
mode = "exchange"
through = "corp"
issuer = "{{url}}"
client_id = "{{client}}"
client_secret = "env:ARX_TEST_TRACKER_SECRET"
upstream = "{UPSTREAM}"
names_agent = true
scopes = ["repo.read", "repo.write"]
audiences = ["tracker"]
"""
)


@pytest.fixture(scope="module")
def organization() -> Organization:
    """The issuer of the tests of this file."""
    return Organization()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, organization: Organization) -> Iterator[PeopleWorld]:
    """One realm with its gateway for the tests of this file."""
    with people(tmp_path_factory.mktemp("exchange"), tracker=organization, connection=EXCHANGE) as made:
        organization.mint = made.issuer
        yield made


@contextlib.contextmanager
def joined(world: PeopleWorld, person: str) -> Iterator[httpx.Client]:
    """A client of a task that acts for a person, who has connected the organization."""
    with world.task(person) as task, world.client(task) as client:
        first = asked(client)
        if not first.is_success:
            assert first.json()["code"] in ("connection_missing", "connection_ended"), first.text
            done = world.connect(first.json()["connect_url"], person, f"{person}-t")
            assert "Connected" in done.text, done.text
        yield client


def test_one_consent_serves_the_upstreams_of_an_organization(world: PeopleWorld, organization: Organization) -> None:
    """The upstream sees each person with the scopes of the tool; the issuer reads which agent acts."""
    with joined(world, "ann") as ann, joined(world, "bob") as bob:
        for client, account in ((ann, "ann-t"), (bob, "bob-t"), (ann, "ann-t")):
            assert asked(client).json() == {"sub": account, "scope": "repo.read"}
            assert asked(client, method="POST").json() == {"sub": account, "scope": "repo.read repo.write"}
    assert set(organization.audiences) == {UPSTREAM}
    [first, *_] = organization.actors
    assert (first["iss"], first["aud"]) == (world.issuer, organization.url)
    assert {each["sub"] for each in organization.actors} == {"agent:acme/a1", "agent:acme/a2"}
    # Nothing is stored of an upstream, and no secret of a token anywhere.
    assert {each["name"] for each in connections(world)} == {"corp"}
    for secret in organization.secrets:
        assert secret not in world.log()
        for file in (world.folder / "realm").glob("*.db*"):
            assert secret.encode() not in file.read_bytes()


def test_the_end_of_the_one_connection_ends_all(world: PeopleWorld) -> None:
    """By its id, which is the target of all tokens that were exchanged."""
    with joined(world, "carol") as carol:
        assert asked(carol).json()["sub"] == "carol-t"
        [row] = [each for each in connections(world, name="corp") if each["person"] == "carol"]
        world.order("freeze", f"connection:{row['id']}")
        assert asked(carol).json()["code"] == "connection_unavailable"
        world.order("thaw", f"connection:{row['id']}")
        assert asked(carol).json()["sub"] == "carol-t"
        world.arx("connection", "end", row["id"], "--reason", "a test", "--yes")
        assert asked(carol).json()["code"] == "connection_ended"


def test_a_refusal_of_the_issuer_ends_nothing(world: PeopleWorld, organization: Organization) -> None:
    """Its administrators decide who may; the person's connection goes on for other upstreams."""
    with joined(world, "dan"):
        pass
    organization.refuses = "invalid_grant"
    try:
        with world.task("dan") as task, world.client(task) as client:
            refused = asked(client)
            assert (refused.status_code, refused.json()["code"]) == (403, "connection_refused"), refused.text
            organization.refuses = ""
            assert asked(client).json()["sub"] == "dan-t"
    finally:
        organization.refuses = ""
    [row] = [each for each in connections(world, name="corp") if each["person"] == "dan"]
    assert row["state"] == "open"


def test_a_token_that_was_revoked_is_refreshed_once(world: PeopleWorld, organization: Organization) -> None:
    """A refusal is no proof that the token is at fault, so an issuer that refuses all has few refreshes."""
    with joined(world, "frank") as frank:
        assert asked(frank).is_success
    path = world.folder / "realm" / "mint.db"
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE connections SET created_at = created_at - 61000 WHERE person = 'frank'")
    organization.tokens = {token: each for token, each in organization.tokens.items() if each[0] != "frank-t"}
    refreshes = organization.refreshes
    with world.task("frank") as task, world.client(task) as client:
        assert asked(client).json()["sub"] == "frank-t"
        assert organization.refreshes == refreshes + 1
        organization.refuses = "invalid_target"
        try:
            for _ in range(3):
                assert asked(client, method="POST").json()["code"] == "connection_refused"
        finally:
            organization.refuses = ""
    assert organization.refreshes == refreshes + 1


def test_a_token_of_another_type_is_not_lent(world: PeopleWorld, organization: Organization) -> None:
    """RFC 8693 2.2.1: the answer names what was issued."""
    with joined(world, "erin"):
        pass
    organization.given = "urn:ietf:params:oauth:token-type:refresh_token"
    try:
        with world.task("erin") as task, world.client(task) as client:
            assert asked(client).json()["code"] == "connection_unavailable"
    finally:
        organization.given = ""


PARTNER_POLICY = """
[issuer.org]
url = "{org}"
jwks = "{org}/keys"
audience = ["http://127.0.0.1:{mint}"]
algorithms = ["ES256"]
[audience.tracker]
origins = ["http://127.0.0.1:{gateway}"]
[session.all]
agents = ["partner/**"]
ttl = "1h"
subject = "allowed"
subjects = [ {{ issuer = "org" }} ]
[task.read]
agents = ["partner/**"]
subjects = [ {{ issuer = "org" }} ]
ttl = "10m"
audience = ["tracker"]
allow = [ {{ tool = "tracker.get", any = true }} ]
"""
PARTNER_GATEWAY = """
[gateway]
listen = ["127.0.0.1:{gateway}"]
[upstream.tracker]
audience = "tracker"
url = "{org}/v1"
resource = "http://127.0.0.1:{gateway}/tracker"
credential = {{ from = "env:ARX_TEST_TRACKER_TOKEN" }}
[upstream.tracker.routes]
"GET /items/{{item}}" = "tracker.get"
"""
ID_JAG = (
    CORP
    + """
[connection.tracker]
mode = "id-jag"
through = "corp"
issuer = "http://127.0.0.1:MINT"
client_id = "PARTNER"
client_secret = "env:TEST_SECOND_SECRET"
upstream = "http://127.0.0.1:GATEWAY/tracker"
scopes = ["read"]
audiences = ["tracker"]
"""
)


class Partner(RealmFolder):
    """A second realm, whose mint takes ID-JAGs of the organization, and whose gateway takes its access tokens."""

    def __init__(self, folder: Path, organization: Organization) -> None:
        super().__init__(folder)
        self.port, self.gateway = free_ports(2)
        self.environment["ARX_TEST_TRACKER_TOKEN"] = "of-the-service"
        organization.tokens["of-the-service"] = ("service", "all", float("inf"))
        ports = {"org": organization.url, "mint": self.port, "gateway": self.gateway}
        self.arx("init", str(folder / "realm"), "--listen", f"127.0.0.1:{self.port}")
        (folder / "realm" / "policy.toml").write_text(PARTNER_POLICY.format(**ports))
        (folder / "gateway.toml").write_text(PARTNER_GATEWAY.format(**ports))

    def client(self) -> tuple[str, str]:
        """Register the first realm's mint; return its id and secret."""
        self.arx("agent", "enrol", "partner/people", "--key-out", str(self.folder / "agent.key"))
        out = self.folder / "client.json"
        self.arx("client", "add", "partner/people", "--scope", "read", "--out", str(out))
        content = json.loads(out.read_text())
        return content["client_id"], content["client_secret"]


@pytest.mark.slow
def test_a_second_mint_takes_the_id_jag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The organization vouches for Ann; the other realm starts a task on her behalf, with its own rules and kills."""
    organization = Organization()
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    partner = Partner(tmp_path / "two", organization)
    with partner.up("--gateway", "gateway.toml", ready='"upstreams": ["tracker"]'):
        client, secret = partner.client()
        organization.partner = client
        monkeypatch.setenv("TEST_SECOND_SECRET", secret)
        _run(tmp_path / "one", organization, partner, client)


def _run(folder: Path, organization: Organization, partner: Partner, client: str) -> None:
    tables = ID_JAG.replace("MINT", str(partner.port)).replace("GATEWAY", str(partner.gateway))
    url = f"http://127.0.0.1:{partner.gateway}/tracker"
    with people(folder, tracker=organization, connection=tables.replace("PARTNER", client), url=url) as world:
        policy = folder / "realm" / "policy.toml"
        policy.write_text(policy.read_text().replace('["repo.read"]', '["read"]'))
        world.arx("policy", "reload")
        with joined(world, "ann") as ann:
            assert asked(ann).json() == {"sub": "service", "scope": "all"}
        sessions: list[dict[str, Any]] = []
        until(lambda: bool(sessions.extend(partner.arx("session", "list")["sessions"]) or sessions))
        assert {each["subject"]["subject"] for each in sessions} == {"ann-t"}
        assert set(organization.audiences) == {f"http://127.0.0.1:{partner.port}"}
        assert SECRET not in world.log()
