# SPDX-License-Identifier: Apache-2.0
"""Clients and browsers that hold a mint's OAuth routes to its description: ``python -m tests.mint.contract --oauth``.

Each call is made up from the description; in most of them, members that are made up are replaced by what a registered
client, or the browser of a person who logs in at a real issuer, would send in that state.
"""

import json
import random
import re
import secrets
from collections.abc import Callable
from html import unescape
from typing import Any, ClassVar, Final
from urllib.parse import parse_qsl, urlsplit

import httpx
from joserfc import jws, jwt
from joserfc.jwk import ECKey

from arx_caps.mint.oauth.client.clients import ASSERTION
from arx_caps.mint.oauth.jwt_bearer import JWT_BEARER
from arx_caps.mint.oauth.token_exchange import ACCESS_TOKEN_TYPE, TOKEN_EXCHANGE
from arx_caps.settings.realm import Realm
from tests.mint.contract import SPARE, Contract, Who
from tests.mint.harness import AGENT, now_ms
from tests.mint.login import VERIFIER, Issuer, challenge

POLICY: Final = f"""\
[issuer.corp]
url = "{{login}}"
jwks = "{{login}}/keys"
audience = ["{{mint}}"]
algorithms = ["ES256"]
[[workload]]
issuer = "corp"
claims = {{{{ sub = "runner" }}}}
agent = "{AGENT}"
[audience.orders]
origins = ["http://127.0.0.1:9001"]
[session.support]
agents = ["acme/**"]
ttl = "1h"
subject = "allowed"
subjects = [ {{{{ issuer = "corp" }}}} ]
subject_outlives = "1h"
[task.lookup]
agents = ["acme/**"]
params = {{{{ order_id = {{{{ max_length = 10 }}}} }}}}
ttl = "10m"
depth = 2
delegate_to = ["acme/**"]
audience = ["orders"]
allow = [ {{{{ tool = "orders.get", args = {{{{ order_id = "$order_id" }}}} }}}} ]
"""
SETTINGS: Final = f'agent_rate = 0\nclients_agent = "{SPARE}"\nclients_scopes = ["lookup"]\nclients_register = true\n'
REDIRECT: Final = "http://127.0.0.1:53211/callback"
RESOURCE: Final = "http://127.0.0.1:9001/orders"
DETAILS: Final = '[{"type":"arx_task","params":{"order_id":"o-1"}}]'
NARROW: Final = '[{"type":"arx_task","allow":[{"tool":"orders.get","args":{"order_id":"o-1"}}]}]'
GRANTS: Final = ("client_credentials", "authorization_code", "refresh_token", JWT_BEARER, TOKEN_EXCHANGE)
WRONG: Final = 0.15  # how often a member that is made up stays


class OAuthContract(Contract):
    """One run against one mint's OAuth routes.

    Args:
        realm: Its realm.
        login: Where people log in.
    """

    prefixes = ("/oauth/", "/.well-known/")
    weights: ClassVar = {"/oauth/token": 6}  # it has a form for each grant

    def __init__(self, realm: Realm, login: Issuer) -> None:
        self._clients: dict[str, tuple[str, str]] = {}
        super().__init__(realm)
        self._login, self._random = login, random.Random(secrets.token_bytes(16))
        self._key = ECKey.generate_key("P-256", private=True)
        self._browser = httpx.Client(base_url=realm.issuer, trust_env=False, timeout=30)
        operator = self._sign_in()
        body: dict[str, Any] = {"agent": AGENT, "scopes": ["lookup"], "redirects": [REDIRECT]}
        ways = {"secret": {}, "key": {"jwks": [self._key.as_dict(private=False)]}, "public": {"public": True}}
        made = {way: self._made(self._send(operator, "POST", "/v1/clients", body | more)) for way, more in ways.items()}
        made["other"] = self._made(self._send(operator, "POST", "/v1/clients", body | {"agent": SPARE}))
        made["watch"] = self._made(
            self._send(
                operator, "POST", "/v1/clients", body | {"scopes": [], "redirects": [], "introspects": ["orders"]}
            )
        )
        self._clients = {way: (each["client"]["id"], each.get("secret", "")) for way, each in made.items()}
        self._tokens: list[dict[str, str]] = []

    def callers(self) -> dict[str, Who]:
        """The clients; none of them signs a request."""
        return {name: Who(self._operator.key, name) for name in self._clients}

    def unsuccessful(self) -> list[str]:
        """Return the operations of which no call did what it is for."""
        return [label for label, statuses in sorted(self.calls.items()) if not any(each < 400 for each in statuses)]

    def _signed(self, who: Who, request: httpx.Request) -> httpx.Response:
        if who.token not in self._clients:
            return super()._signed(who, request)
        if request.url.path in _BROWSED:
            request.headers["Cookie"] = "; ".join(f"{name}={value}" for name, value in self._browser.cookies.items())
        elif self._basic:
            request.headers["Authorization"] = self._basic
        answer = self._http.send(request)
        self._http.cookies.clear()  # those of all logins would not fit into a request; a browser has its own
        if request.url.path == "/oauth/token":
            grant = dict(parse_qsl(request.content.decode("latin-1"))).get("grant_type")
            if grant in GRANTS:
                self.calls.setdefault(f"POST /oauth/token {grant.rpartition(':')[2]}", set()).add(answer.status_code)
            if answer.status_code == 200:
                self._tokens.append(answer.json())
        return answer

    _basic = ""

    def _fill_in(self, case: Any, who: Who) -> None:
        self._basic = ""
        made = _BROWSED | {"/oauth/token": OAuthContract._token_form, "/oauth/register": OAuthContract._registration}
        fill: Callable[..., dict[str, Any]] | None = made.get(case.path, OAuthContract._about_token)
        if case.path.startswith("/.well-known/") or case.path == "/oauth/jwks":
            return
        valid = fill(self, who.token)
        written = case.body if case.method == "POST" else case.query
        kept = {name: value for name, value in (written or {}).items() if self._random.random() < WRONG}
        if case.method == "POST":
            case.body = valid | kept
        else:
            case.query = valid | kept

    def _proof(self, name: str) -> dict[str, str]:
        """Return the members by which a client proves itself, or set the header that does."""
        client, secret = self._clients[name]
        if name == "key":
            now = now_ms() // 1000
            claims = {"iss": client, "sub": client, "aud": self._realm.issuer, "exp": now + 60}
            payload = json.dumps(claims | {"jti": secrets.token_hex(8)})
            text = jws.serialize_compact({"alg": "ES256"}, payload, self._key, algorithms=["ES256"])
            return {"client_assertion": text, "client_assertion_type": ASSERTION}
        if name == "public":
            return {"client_id": client}
        if self._random.random() < 0.5:
            return {"client_id": client, "client_secret": secret}
        self._basic = httpx.BasicAuth(client, secret)._auth_header
        return {}

    def _token_form(self, name: str) -> dict[str, str]:
        asked = {"scope": "lookup", "resource": RESOURCE, "authorization_details": DETAILS}
        form: dict[str, str]
        grant = self._random.choice(GRANTS)
        if grant == "authorization_code":
            form = {"code": self._code(name), "redirect_uri": REDIRECT, "code_verifier": VERIFIER}
        elif grant == "refresh_token":
            form = {"refresh_token": self._granted(name)["refresh_token"]}
        elif grant == TOKEN_EXCHANGE:
            form = {"subject_token": self._granted(name)["access_token"], "subject_token_type": ACCESS_TOKEN_TYPE}
            form |= {"authorization_details": NARROW} if self._random.random() < 0.5 else {}
        elif grant == JWT_BEARER:
            form = asked | {"assertion": self._assertion(name)}
        else:
            form = asked
        return {"grant_type": grant, **form, **self._proof(name)}

    def _assertion(self, name: str) -> str:
        now = now_ms() // 1000
        claims = {"iss": self._login.url, "sub": "runner", "aud": self._realm.issuer, "iat": now, "exp": now + 60}
        header = {"alg": "ES256", "kid": "k1"}
        if self._random.random() < 0.5:
            header["typ"] = "oauth-id-jag+jwt"
            claims |= {"sub": "ann", "client_id": self._clients[name][0], "jti": secrets.token_hex(8)}
        return jwt.encode(header, claims, self._login.key)

    def _about_token(self, name: str) -> dict[str, str]:
        granted = (
            self._random.choice(self._tokens) if self._tokens and self._random.random() < 0.3 else self._granted(name)
        )
        kind = self._random.choice(("access_token", "refresh_token"))
        return {"token": granted.get(kind, granted["access_token"]), "token_type_hint": kind, **self._proof(name)}

    def _registration(self, _: str) -> dict[str, Any]:
        return {"redirect_uris": [REDIRECT], "client_name": "a program", "token_endpoint_auth_method": "none"}

    def _authorization(self, name: str) -> dict[str, str]:
        query = {"response_type": "code", "client_id": self._clients[name][0], "redirect_uri": REDIRECT, "state": "s"}
        query |= {"scope": "lookup", "resource": RESOURCE, "authorization_details": DETAILS}
        return query | {"code_challenge": challenge(), "code_challenge_method": "S256"}

    def _callback(self, name: str) -> dict[str, str]:
        begun = self._browser.get("/oauth/authorize", params=self._authorization(_person(name)))
        back = httpx.get(begun.headers["location"], trust_env=False, timeout=30).headers["location"]
        return dict(parse_qsl(urlsplit(back).query))

    def _consent(self, name: str) -> dict[str, str]:
        """Return the members of an answer, and of the query of the page."""
        back = self._browser.get("/oauth/callback", params=self._callback(name))
        query = dict(parse_qsl(urlsplit(back.headers["location"]).query))
        token = re.search(r'name="token" value="([^"]*)"', self._browser.get("/oauth/consent", params=query).text)
        assert token is not None
        return query | {"token": unescape(token[1]), "answer": self._random.choice(("allow", "allow", "deny"))}

    def _code(self, name: str) -> str:
        answer = self._browser.post("/oauth/consent", data=self._consent(name) | {"answer": "allow"})
        return dict(parse_qsl(urlsplit(answer.headers["location"]).query))["code"]

    def _granted(self, name: str) -> dict[str, str]:
        """Return the answer to a redeemed code of a client."""
        form = {"grant_type": "authorization_code", "code": self._code(name), "redirect_uri": REDIRECT}
        name = _person(name)
        form |= {"code_verifier": VERIFIER, **self._proof(name)}
        headers, self._basic = ({"Authorization": self._basic} if self._basic else {}), ""
        answer = self._http.post("/oauth/token", data=form, headers=headers)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())


def _person(name: str) -> str:
    """Return the client that a person uses; one that introspects alone has none."""
    return "secret" if name == "watch" else name


_BROWSED: Final[dict[str, Callable[..., dict[str, Any]]]] = {
    "/oauth/authorize": OAuthContract._authorization,
    "/oauth/callback": OAuthContract._callback,
    "/oauth/consent": OAuthContract._consent,
}
