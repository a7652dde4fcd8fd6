# SPDX-License-Identifier: Apache-2.0
"""People who are operators by login: who they are, what they may do, and until when."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from arx_caps.credentials.jose import KeyFile, SigningKey
from arx_caps.mint.db.repositories.identity.operators import BY_LOGIN
from arx_caps.settings.realm import Login
from tests.mint.harness import Harness, Holder, open_unit
from tests.mint.login import MINT_CLIENT, Issuer, idp  # noqa: F401 - a fixture
from tests.mint.login import POLICY as PEOPLE
from tests.mint.test_operators import decided, enrol, sign_in

pytestmark = pytest.mark.spec("CONTROL 1.7")

CLI = "arx-cli"
OPERATORS = """
[[operator]]
issuer = "corp"
claims = {{ groups = "sre" }}
role = "responder"

[[operator]]
issuer = "corp"
claims = {{ groups = "audit" }}
role = "read-only"
"""
POLICY = PEOPLE + OPERATORS


class People:
    """The realm, and an issuer whose people are operators of it."""

    def __init__(self, harness: Harness, issuer: Issuer) -> None:
        self.harness, self.issuer = harness, issuer
        issuer.claims = {"aud": CLI}

    def post(self, holder: Holder, token: str) -> httpx2.Response:
        return holder.call("POST", "/v1/login", {"id_token": token})

    def log_in(self, sub: str = "ann", *groups: str) -> Holder:
        """Log a person in, and return the holder of the login's key and token."""
        self.issuer.person = {"sub": sub, "groups": list(groups or ("sre",))}
        holder = Holder(self.harness, SigningKey.generate(), None)
        answer = self.post(holder, self.issuer.id_token())
        assert answer.status_code == 201, answer.text
        return Holder(self.harness, holder.key, answer.json()["token"])


@pytest.fixture
def people(
    idp: Issuer,  # noqa: F811
    tmp_path: Path,
    database: str | None,
    realm_template: Path,
) -> Iterator[People]:
    login = Login(idp.url, MINT_CLIENT, "env:ARX_TEST_LOGIN_SECRET", "openid groups", CLI)
    policy = POLICY.format(issuer=idp.url)
    with open_unit(
        tmp_path / "realm", database=database, template=realm_template, policy=policy, login=login
    ) as harness:
        yield People(harness, idp)


def test_a_person_of_a_group_is_an_operator_with_its_role(people: People) -> None:
    """Every call is recorded under the operator's name, and the login names issuer and subject."""
    assert people.harness.client.get("/v1/login").json() == {
        "issuer": people.issuer.url,
        "client_id": CLI,
        "scope": "openid groups",
    }
    ann = people.log_in()
    whoami = ann.call("GET", "/v1/whoami").json()
    assert (whoami["name"], whoami["role"]) == ("corp.ann", "responder")
    assert ann.call("GET", "/v1/agents").status_code == 200
    refused = ann.call("POST", "/v1/operators", {"name": "eve", "jwk": SigningKey.generate().public.jwk})
    assert (refused.status_code, refused.json()["code"]) == (403, "tool_not_allowed")
    tools = [(each.tool, each.code, each.facts.assurance) for each in decided(people.harness, "corp.ann")]
    assert tools == [
        ("arx.login", "ok", "login"),
        ("arx.whoami", "ok", "login"),
        ("arx.agents.read", "ok", "login"),
        ("arx.operators.write", "tool_not_allowed", "login"),
    ]
    event = people.harness.events()[-1]
    assert (event["kind"], event["by"]) == ("operator.logged_in", "operator:corp.ann")
    assert (event["issuer"], event["subject"], event["role"]) == (people.issuer.url, "ann", "responder")
    shown = people.harness.operator().call("GET", "/v1/operators/corp.ann").json()
    assert (shown["role"], shown["login"]) == ("responder", {"issuer": people.issuer.url, "subject": "ann"})


def test_several_groups_give_several_roles(people: People) -> None:
    """What one of the roles allows is allowed, and no more."""
    both = people.log_in("bob", "audit", "sre")
    whoami = both.call("GET", "/v1/whoami").json()
    assert whoami["role"] == "responder, read-only"
    assert {"arx.kill", "arx.audit.read"} <= set(whoami["may"])


def test_a_person_without_a_group_is_no_operator(people: People) -> None:
    """Not even a row is made."""
    people.issuer.person = {"sub": "eve", "groups": ["support"]}
    answer = people.post(Holder(people.harness, SigningKey.generate(), None), people.issuer.id_token())
    assert (answer.status_code, answer.json()["code"]) == (403, "no_role")
    assert people.harness.mint.db.operators.find("corp.eve") is None
    assert [each.code for each in decided(people.harness, "corp.eve")] == ["no_role"]


def test_a_role_that_the_policy_takes_away_ends_at_the_next_call(people: People) -> None:
    """The token that is out, and the key: neither is of use, until the policy gives the role again."""
    ann = people.log_in()
    policy = POLICY.format(issuer=people.issuer.url)
    people.harness.use(policy.replace('groups = "sre"', 'groups = "other"'))
    answer = ann.call("GET", "/v1/agents")
    assert (answer.status_code, answer.json()["code"]) == (403, "no_role")
    assert decided(people.harness, "corp.ann")[-1].code == "no_role"
    key = KeyFile("operator", "corp.ann", people.issuer.url, ann.key)
    again = Holder(people.harness, ann.key, None)
    refused = again.call("POST", "/v1/operators/token", {"assertion": people.harness.assertion(key)})
    assert refused.json()["code"] == "no_role"
    people.harness.use(policy)
    assert ann.call("GET", "/v1/agents").status_code == 200


def test_a_group_that_the_person_leaves_ends_with_the_next_login(people: People) -> None:
    """Of both logins: the claims are the person's, and the last ones count."""
    first = people.log_in("ann", "sre")
    people.log_in("ann", "audit")
    assert first.call("GET", "/v1/whoami").json()["role"] == "read-only"
    people.issuer.person = {"sub": "ann", "groups": []}
    people.post(Holder(people.harness, SigningKey.generate(), None), people.issuer.id_token())
    assert first.call("GET", "/v1/whoami").json()["code"] == "no_role"


def test_a_frozen_operator_neither_calls_nor_logs_in(people: People) -> None:
    """As soon as the mint has applied the freeze."""
    ann = people.log_in()
    people.harness.epochs.freeze("operator:corp.ann")
    assert ann.call("GET", "/v1/whoami").json()["code"] == "frozen"
    answer = people.post(Holder(people.harness, SigningKey.generate(), None), people.issuer.id_token())
    assert answer.json()["code"] == "frozen"


def test_a_removed_operator_stays_removed(people: People) -> None:
    """A login does not bring a removed operator back, and its keys are gone."""
    ann = people.log_in()
    people.harness.operator().call("DELETE", "/v1/operators/corp.ann")
    assert ann.call("GET", "/v1/whoami").json()["code"] == "bad_proof"
    answer = people.post(Holder(people.harness, SigningKey.generate(), None), people.issuer.id_token())
    assert (answer.status_code, answer.json()["code"]) == (409, "operator_exists")


def test_the_key_of_a_login_ends(people: People, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the realm's time it gets no token, and a token with it is refused."""
    ann = people.log_in()
    row = people.harness.mint.db.holder_keys.list("operator:corp.ann")[0]
    life_ms = people.harness.realm.console.life_ms
    assert abs(row.until - time.time() * 1000 - life_ms) < 60_000
    key = KeyFile("operator", "corp.ann", people.issuer.url, ann.key)
    sign_in(people.harness, key)
    later = row.until
    monkeypatch.setattr("arx_caps.mint.db.repositories.identity.holder_keys.now_ms", lambda: later)
    assert ann.call("GET", "/v1/whoami").json()["code"] == "bad_proof"
    holder = Holder(people.harness, ann.key, None)
    answer = holder.call("POST", "/v1/operators/token", {"assertion": people.harness.assertion(key)})
    assert answer.json()["code"] == "bad_assertion"
    monkeypatch.undo()


def test_a_logout_removes_the_key(people: People) -> None:
    """The token that is out is of no use either; the key of an operator's own is left alone."""
    ann = people.log_in()
    assert ann.call("DELETE", "/v1/login").json() == {"operator": "corp.ann"}
    assert ann.call("GET", "/v1/whoami").json()["code"] == "bad_proof"
    answer = people.harness.operator().call("DELETE", "/v1/login")
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")


def test_a_login_gets_no_key_that_outlives_it(people: People) -> None:
    """Nor a role of its own: both would outlive the group.  Its keys can be removed."""
    people.log_in()
    admin = people.harness.operator()
    for change in ({"add_jwk": SigningKey.generate().public.jwk}, {"role": "admin"}):
        assert admin.call("PATCH", "/v1/operators/corp.ann", change).json()["code"] == "conflict"
    (key,) = admin.call("GET", "/v1/operators/corp.ann").json()["keys"]
    assert admin.call("PATCH", "/v1/operators/corp.ann", {"remove_kid": key}).json()["keys"] == []


@pytest.mark.parametrize(
    ("claims", "code"),
    [
        ({"aud": MINT_CLIENT}, "bad_subject_token"),  # of a login in a browser
        ({"aud": [CLI, "other"]}, "bad_subject_token"),
        ({"azp": "other"}, "bad_subject_token"),
        ({"iat": int(time.time()) - 3600}, "bad_subject_token"),
        ({"iss": "https://other.example"}, "bad_subject_token"),
        ({"exp": int(time.time()) - 1}, "bad_subject_token"),
        ({"events": {}}, "bad_subject_token"),
    ],
)
def test_a_wrong_id_token_is_refused(people: People, claims: dict[str, Any], code: str) -> None:
    """Another program's, another issuer's, an old one."""
    people.issuer.person = {"sub": "ann", "groups": ["sre"]}
    people.issuer.claims |= claims
    answer = people.post(Holder(people.harness, SigningKey.generate(), None), people.issuer.id_token())
    assert (answer.status_code, answer.json()["code"]) == (401, code)
    assert people.harness.mint.db.operators.find("corp.ann") is None


def test_an_id_token_is_used_once(people: People) -> None:
    """A thief of the token comes too late, also with another signature of the same text."""
    people.issuer.person = {"sub": "ann", "groups": ["sre"]}
    token = people.issuer.id_token()
    assert people.post(Holder(people.harness, SigningKey.generate(), None), token).status_code == 201
    answer = people.post(Holder(people.harness, SigningKey.generate(), None), token)
    assert (answer.status_code, answer.json()["code"]) == (401, "replayed")


def test_names_of_people_are_never_folded(people: People) -> None:
    """A name that is no operator's name becomes a digest: capitals, spaces and length make another one."""
    names = set()
    for sub in ("Ann", "ann", "ann smith", "ann/x", "a" * 60, "ann@acme.example"):
        people.log_in(sub)
        names.add(people.harness.events()[-1]["operator"])
    assert len(names) == 6
    assert {"corp.ann"} == {name for name in names if "ann" in name}


def test_an_enrolled_operator_is_not_taken_over(people: People) -> None:
    """A person at the issuer whose name makes that of an operator with a key does not become that operator."""
    enrol(people.harness, "corp.ann", role="admin")
    people.issuer.person = {"sub": "ann", "groups": ["sre"]}
    answer = people.post(Holder(people.harness, SigningKey.generate(), None), people.issuer.id_token())
    assert answer.json()["code"] == "operator_exists"
    row = people.harness.mint.db.operators.find("corp.ann")
    assert row is not None
    assert row.role != BY_LOGIN


def test_only_an_administrator_changes_who_is_an_operator(people: People) -> None:
    """An operator that writes policies gives itself no role, neither by a rule nor by another issuer's keys."""
    writer = sign_in(people.harness, enrol(people.harness, "writer", role="policy"))
    policy = POLICY.format(issuer=people.issuer.url)
    changes = (
        policy.replace('role = "responder"', 'role = "admin"'),
        policy.replace(f'jwks = "{people.issuer.url}/keys"', 'jwks = "https://eve.example/keys"'),
        policy.replace('algorithms = ["ES256"]', 'algorithms = ["ES256", "RS256"]'),
        policy.partition("[[operator]]")[0],
    )
    for changed in changes:
        answer = writer.call("POST", "/v1/policies", {"policy": changed})
        assert (answer.status_code, answer.json()["code"]) == (403, "tool_not_allowed"), answer.text
    same = policy.replace('ttl = "1h"', 'ttl = "2h"')
    assert writer.call("POST", "/v1/policies", {"policy": same}).status_code == 200
    for changed in changes:
        assert people.harness.operator().call("POST", "/v1/policies", {"policy": changed}).status_code == 200


def test_a_mint_without_the_setting_takes_no_login(unit: Harness) -> None:
    """The route names the missing login."""
    assert unit.client.get("/v1/login").status_code == 404
    answer = Holder(unit, SigningKey.generate(), None).call("POST", "/v1/login", {"id_token": "x"})
    assert answer.json()["code"] == "not_found"
