# SPDX-License-Identifier: Apache-2.0
"""A realm that believes issuers: workloads open sessions by their tokens, agents act on behalf of people."""

from typing import Any

import pytest

from arx_caps.credentials.jose import SigningKey
from arx_verifier.token.macaroon import Identifier, Macaroon
from tests.mint.harness import AGENT, Harness, Holder, now_ms
from tests.mint.issuer import IDP, MINT, jwks, token

CI = "https://ci.example"
DOMAIN = "spiffe://acme.example"
ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"
ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
DEPLOY = "acme/ci/deploy"
DESK = "acme/desk/triage"
POLICY = f"""\
[issuer.corp]
url = "{IDP}"
jwks = "keys.json"
audience = ["{MINT}"]
algorithms = ["ES256"]

[issuer.ci]
url = "{CI}"
jwks = "keys.json"
audience = ["{MINT}"]
algorithms = ["ES256"]

[issuer.mesh]
url = "{DOMAIN}"
jwks = "keys.json"
audience = ["{MINT}"]
algorithms = ["ES256"]

[[workload]]
issuer = "ci"
claims = {{ sub = "repo:acme/*:ref:refs/heads/main", repository_owner = "acme" }}
agent = "{DEPLOY}"

[[workload]]
issuer = "mesh"
claims = {{ sub = "{DOMAIN}/ns/prod/sa/triage" }}
agent = "{AGENT}"

[audience.orders]
origins = ["http://127.0.0.1:9001"]

[session.ci]
agents = ["acme/ci/*"]
ttl = "1h"

[session.support]
agents = ["acme/support/*"]
ttl = "1h"
subject = "allowed"
subjects = [ {{ issuer = "corp" }} ]

[session.desk]
agents = ["acme/desk/*"]
ttl = "1h"
subject = "required"
subjects = [ {{ issuer = "corp", claims = {{ groups = ["support", "leads"] }} }} ]
subject_outlives = "10m"

[task.own]
agents = ["acme/**"]
subjects = [ {{ issuer = "corp" }} ]
ttl = "10m"
audience = ["orders"]
allow = [ {{ tool = "orders.list", args = {{ customer = "$subject" }} }} ]

[task.refund]
agents = ["acme/**"]
subjects = [ {{ issuer = "corp", claims = {{ groups = "leads" }} }} ]
params = {{ order_id = {{ max_length = 10 }} }}
ttl = "10m"
audience = ["orders"]
allow = [ {{ tool = "orders.refund", args = {{ order_id = "$order_id" }} }} ]

[task.lookup]
agents = ["acme/**"]
params = {{ order_id = {{ max_length = 10 }} }}
ttl = "10m"
audience = ["orders"]
allow = [ {{ tool = "orders.get", args = {{ order_id = "$order_id" }} }} ]
"""
LOOKUP = {"template": "lookup", "params": {"order_id": "o-1"}}
MAIN = "repo:acme/shop:ref:refs/heads/main"
# What the fixture `unit` needs: the policy, and the keys of its issuers.
WORKLOADS = pytest.mark.realm(policy=POLICY, files={"keys.json": jwks("ec")})


def ci(**changes: Any) -> str:
    return token(now_ms(), **({"iss": CI, "sub": MAIN, "repository_owner": "acme"} | changes))


def ask(harness: Harness, body: dict[str, Any], key: SigningKey | None = None) -> tuple[Holder, Any]:
    """Ask for a session, with a key made for it."""
    key = key or SigningKey.generate()
    answer = Holder(harness, key, None).call("POST", "/v1/sessions", body)
    reply = answer.json()
    return Holder(harness, key, reply.get("token")), reply


def code(harness: Harness, body: dict[str, Any]) -> str:
    return str(ask(harness, body)[1].get("code", "ok"))


def behalf(**changes: Any) -> dict[str, str]:
    """A subject's ID token, as the body says it."""
    return {"subject_token": token(now_ms(), **changes), "subject_token_type": ID_TOKEN}


class Desk:
    """An enrolled agent that asks for sessions by its key."""

    def __init__(self, harness: Harness, path: str) -> None:
        self.harness, self.key = harness, harness.enrol(path)

    def ask(self, **body: Any) -> tuple[Holder, Any]:
        key = SigningKey.generate()
        return ask(self.harness, {"assertion": self.harness.assertion(self.key, key), **body}, key)

    def code(self, **body: Any) -> str:
        return str(self.ask(**body)[1].get("code", "ok"))


def start(holder: Holder, template: str, **params: Any) -> Any:
    return holder.call("POST", "/v1/tasks", {"template": template, "params": params}).json()


def identifier_of(text: str) -> Identifier:
    found = Macaroon.parse(text).unverified_identifier
    assert isinstance(found, Identifier)
    return found
