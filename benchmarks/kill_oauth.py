# SPDX-License-Identifier: Apache-2.0
"""Kill what access tokens of each OAuth grant stand for: ``python -m benchmarks.kill_oauth``.

A real mint with a login, a real gateway, a real store and a service.  It fails if one call that was sent later than the
lease L after a kill is allowed, or if the mint then calls an access token active or accepts its refresh token.
"""

import argparse
import contextlib
import json
import re
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from html import unescape
from pathlib import Path
from typing import Any, Final, NamedTuple

import httpx
from joserfc import jwt

from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.identity.session_login import subject_targets
from arx_caps.mint.oauth.jwt_bearer import JWT_BEARER
from arx_caps.mint.oauth.token_exchange import ACCESS_TOKEN_TYPE, TOKEN_EXCHANGE
from arx_caps.mint.policy.issuers import Subject
from arx_caps.revocation.store import RevocationStore
from arx_verifier.token import wire
from benchmarks.kill_stage import say, spread
from benchmarks.measure import machine
from tests.mint.login import VERIFIER, Issuer, challenge, issuer
from tests.realm_folder import RealmFolder
from tests.servers import free_ports, listens, until

LEASE_MS: Final = 500
TRIALS: Final = 50
KINDS: Final = ("task", "session", "agent", "subject", "realm")
PERSON: Final = "ann"
REDIRECT: Final = "http://127.0.0.1/callback"
_REALM: Final = "acme"
_NS: Final = 1_000_000  # in a millisecond
_WITHIN_S: Final = 60.0
_POLICY: Final = """
[issuer.corp]
url = "{login}"
jwks = "{login}/keys"
audience = ["{mint}"]
algorithms = ["ES256"]
[[workload]]
issuer = "corp"
claims = {{ sub = "runner" }}
agent = "acme/lead"
[audience.orders]
origins = ["{gateway}"]
[session.all]
agents = ["acme/*"]
ttl = "1h"
subject = "allowed"
subjects = [ {{ issuer = "corp" }} ]
subject_outlives = "1h"
[task.read]
agents = ["acme/lead"]
ttl = "10m"
depth = 1
delegate_to = ["acme/worker"]
audience = ["orders"]
allow = [ {{ tool = "orders.get", args = {{ order_id = "o-1" }} }} ]
"""
_GATEWAY: Final = """
[gateway]
listen = ["{listen}"]
[upstream.orders]
audience = "orders"
url = "http://127.0.0.1:{service}/v1"
resource = "{gateway}/orders"
credential = {{ header = "X-Key", from = "env:BILLING_KEY", prefix = "Key " }}
[upstream.orders.routes]
"GET /orders/{{order_id}}" = "orders.get"
"""


class Access(NamedTuple):
    """What a client got.

    Attributes:
        token: The access token.
        refresh: The refresh token, or None.
        client: The client's id and secret.
        has_person: Whether a person is behind it.
    """

    token: str
    refresh: str | None
    client: tuple[str, str]
    has_person: bool

    @property
    def claims(self) -> dict[str, Any]:
        """What the access token says."""
        return dict(json.loads(wire.bytes_of(self.token.split(".")[1])))


class Place(RealmFolder):
    """The realm, its gateway and two clients.

    Args:
        folder: Keeps everything.
        store_url: The store.
        login: Where people log in.
        ports: Of mint, gateway and service.

    Attributes:
        store: Where kills are made.
    """

    def __init__(self, folder: Path, store_url: str, login: Issuer, ports: list[int]) -> None:
        mint, gateway, self._port = ports
        self.mint, self._gateway = f"http://127.0.0.1:{mint}", f"http://127.0.0.1:{gateway}"
        super().__init__(folder)
        self._login = login
        self._http = httpx.Client(trust_env=False, timeout=_WITHIN_S)
        self.environment["BILLING_KEY"] = "of-the-service"
        self._store_url = store_url
        with RevocationStore(store_url, _REALM) as store:  # the mint takes over the lease of a store that it finds
            store.load_functions()
            store.init(lease_ms=LEASE_MS)
        urls = {"mint": self.mint, "gateway": self._gateway, "login": login.url}
        init = ("--name", _REALM, "--store", store_url)
        self.make(mint, _POLICY.format(**urls), login.url, *init, more="agent_rate = 0\n")
        text = _GATEWAY.format(listen=f"127.0.0.1:{gateway}", service=self._port, **urls)
        (folder / "gateway.toml").write_text(text)
        self._service = [
            "-m",
            "uvicorn",
            "tests.gateway.upstream_http:app",
            "--port",
            str(self._port),
            "--log-level",
            "error",
        ]
        self._clients: dict[str, tuple[str, str]] = {}

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run mint, gateway and service, and register the clients."""
        with contextlib.ExitStack() as stack:
            log = stack.enter_context((self.folder / "service.log").open("w"))
            command = [sys.executable, *self._service]
            service = subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=log, stderr=log)
            stack.callback(service.wait, _WITHIN_S)
            stack.callback(service.terminate)
            until(lambda: listens(self._port) or service.poll() is not None)
            assert service.poll() is None, (self.folder / "service.log").read_text()
            stack.enter_context(self.up("--gateway", "gateway.toml", ready='"upstreams": ["orders"]'))
            self.store = stack.enter_context(RevocationStore(self._store_url, _REALM))
            assert self.store.header().lease_ms == LEASE_MS
            for agent in ("lead", "worker"):
                self._clients[agent] = self._registered(f"acme/{agent}")
            yield

    def _registered(self, agent: str) -> tuple[str, str]:
        out = self.folder / f"{agent.replace('/', '-')}.json"
        self.arx("agent", "enrol", agent, "--key-out", f"{out}.key")
        self.arx("client", "add", agent, "--scope", "read", "--redirect", REDIRECT, "--out", str(out))
        content = json.loads(out.read_text())
        return content["client_id"], content["client_secret"]

    def _token(self, agent: str, form: Mapping[str, str], *, has_person: bool = True) -> Access:
        client = self._clients[agent]
        answer = self._http.post(f"{self.mint}/oauth/token", data=dict(form), auth=client)
        if answer.status_code != 200:
            raise RuntimeError(answer.text)
        body = answer.json()
        return Access(body["access_token"], body.get("refresh_token"), client, has_person)

    def _asking(self, **form: str) -> dict[str, str]:
        return {"scope": "read", "resource": f"{self._gateway}/orders", **form}

    def client_credentials(self, kind: str) -> Access:
        """Get access by the client's secret."""
        del kind
        return self._token("lead", self._asking(grant_type="client_credentials"), has_person=False)

    def jwt_bearer(self, kind: str) -> Access:
        """Get access by an ID-JAG for the kill of its subject, else by a workload's token."""
        now = int(time.time())
        claims = {"iss": self._login.url, "sub": "runner", "aud": self.mint, "iat": now, "exp": now + 60}
        header = {"alg": "ES256", "kid": "k1"}
        if kind == "subject":
            header["typ"] = "oauth-id-jag+jwt"
            claims |= {"sub": PERSON, "client_id": self._clients["lead"][0], "jti": secrets.token_hex(8)}
        assertion = jwt.encode(header, claims, self._login.key)
        return self._token(
            "lead", self._asking(grant_type=JWT_BEARER, assertion=assertion), has_person=kind == "subject"
        )

    def token_exchange(self, kind: str) -> Access:
        """Get access for another agent, to which the task is delegated."""
        form = {"grant_type": TOKEN_EXCHANGE, "subject_token_type": ACCESS_TOKEN_TYPE}
        first = self.jwt_bearer(kind)
        return self._token("worker", form | {"subject_token": first.token}, has_person=first.has_person)

    def authorization_code(self, kind: str) -> Access:
        """Get access by a person's login and consent."""
        del kind
        query = self._asking(response_type="code", client_id=self._clients["lead"][0], redirect_uri=REDIRECT)
        query |= {"code_challenge": challenge(), "code_challenge_method": "S256"}
        with httpx.Client(trust_env=False, timeout=_WITHIN_S) as browser:
            page = browser.get(f"{self.mint}/oauth/authorize", params=query, follow_redirects=True)
            token = re.search(r'name="token" value="([^"]*)"', page.text)
            if token is None:
                raise RuntimeError(page.text)
            answer = browser.post(page.url, data={"token": unescape(token[1]), "answer": "allow"})
            code = httpx.URL(answer.headers["location"]).params["code"]
        form = {"grant_type": "authorization_code", "code": code, "redirect_uri": REDIRECT, "code_verifier": VERIFIER}
        return self._token("lead", form)

    def refresh_token(self, kind: str) -> Access:
        """Get access by a refresh token of a consented session."""
        return self.refreshed(self.authorization_code(kind))

    def refreshed(self, access: Access) -> Access:
        """Use a refresh token.

        Raises:
            RuntimeError: The mint refuses it.
        """
        return self._token("lead", {"grant_type": "refresh_token", "refresh_token": access.refresh or ""})

    def is_allowed(self, access: Access) -> bool:
        """Call a tool through the gateway."""
        headers = {"authorization": f"Bearer {access.token}"}
        answer = self._http.get(f"{self._gateway}/orders/orders/o-1", headers=headers)
        assert answer.status_code in (200, 401, 503), answer.text
        return answer.status_code == 200

    def is_active(self, access: Access) -> bool:
        """Ask the mint."""
        answer = self._http.post(f"{self.mint}/oauth/introspect", data={"token": access.token}, auth=access.client)
        assert answer.status_code in (200, 503), answer.text
        return bool(answer.json().get("active"))

    def target_of(self, kind: str, access: Access) -> str:
        """Return what to kill; without a person, a kill of the subject is one of the session."""
        if kind == "subject" and access.has_person:
            return subject_targets(Subject(self._login.url, PERSON, {}))[0]
        claims = access.claims
        names = {"task": f"task:{claims['tid']}", "agent": claims.get("act", claims)["sub"], "realm": "realm"}
        return names.get(kind, f"session:{claims['sid']}")

    def trial(self, grant: Callable[[str], Access], kind: str) -> "Trial":
        """Get access, kill it, and return what was allowed after."""
        access = _patiently(lambda: grant(kind))
        assert _patiently(lambda: self.is_allowed(access) or None)
        assert _patiently(lambda: self.is_active(access) or None)
        target = self.target_of(kind, access)
        time.sleep(secrets.randbelow(LEASE_MS) / 4000)  # anywhere between two answers of the store
        self.store.kill_by_kind([target], "a measurement", "operator:bench")
        killed = time.monotonic_ns()
        last, over = {"call": 0.0, "active": 0.0}, {"call": 0.0, "active": 0.0}
        while not all(over.values()):
            for name, passes in (("call", self.is_allowed), ("active", self.is_active)):
                sent = (time.monotonic_ns() - killed) / _NS
                if passes(access):
                    last[name], over[name] = sent, 0.0
                    assert sent <= LEASE_MS, f"{name} {sent:.0f} ms after a kill of {target}"
                else:
                    over[name] = over[name] or (time.monotonic_ns() - killed) / _NS
        with contextlib.suppress(Exception):
            self.store.thaw([target], "a measurement", "operator:bench")
        return Trial(access, kind, killed, last["call"], over["call"], over["active"])


class Trial(NamedTuple):
    """One trial.  Times are in ms after the kill.

    Attributes:
        access: What was killed.
        kind: What kind of kill.
        killed: When the kill was acknowledged, monotonic clock, ns.
        allowed_ms: When the last call that was allowed was sent; 0 for none.
        refused_ms: When the first refusal came.
        inactive_ms: When the mint first answered that it is not active.
    """

    access: Access
    kind: str
    killed: int
    allowed_ms: float
    refused_ms: float
    inactive_ms: float


def _patiently(ask: Callable[[], Any]) -> Any:
    """Return the first answer: gateway and mint may not have seen yet that the last trial's freeze is over."""
    ends = time.monotonic() + _WITHIN_S
    while True:
        try:
            answer = ask()
        except RuntimeError:
            answer = None
            if time.monotonic() > ends:
                raise
        if answer is not None or time.monotonic() > ends:
            return answer
        time.sleep(0.01)


def measure(on: Place, name: str, trials: int) -> dict[str, Any]:
    """Measure one grant, and raise if access outlived the lease.

    Args:
        on: Where.
        name: The grant.
        trials: How many.

    Raises:
        AssertionError: It did.
    """
    seen = [on.trial(getattr(on, name), KINDS[number % len(KINDS)]) for number in range(trials)]
    until(lambda: time.monotonic_ns() > seen[-1].killed + LEASE_MS * _NS)
    for each in seen:
        # Nothing comes back, though the freezes are over.
        assert not on.is_allowed(each.access), f"a call after a kill of the {each.kind}"
        assert not on.is_active(each.access), f"active after a kill of the {each.kind}"
        if each.access.refresh is not None and each.kind != "task":
            with contextlib.suppress(RuntimeError):
                on.refreshed(each.access)
                raise AssertionError(f"a refresh token outlived a kill of the {each.kind}")
    return {
        "grant": name,
        "trials": trials,
        "allowed_ms": spread([each.allowed_ms for each in seen]),
        "refused_ms": spread([each.refused_ms for each in seen]),
        "inactive_ms": spread([each.inactive_ms for each in seen]),
    }


GRANTS: Final = ("client_credentials", "jwt_bearer", "token_exchange", "authorization_code", "refresh_token")


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.kill_oauth", description="Kill what access tokens mean."
    )
    parser.add_argument("--trials", type=int, default=TRIALS, metavar="N", help="trials of each grant")
    trials, ports = parser.parse_args().trials, free_ports(3)
    rows = []
    with (
        tempfile.TemporaryDirectory(prefix="arx") as name,
        EmbeddedValkey(Path(name) / "valkey") as server,
        issuer(f"http://127.0.0.1:{ports[0]}") as login,
    ):
        place = Place(Path(name), server.url, login, ports)
        with place.running():
            for grant in GRANTS:
                began = time.monotonic()
                rows.append(measure(place, grant, trials))
                say(f"{json.dumps(rows[-1])} in {time.monotonic() - began:.0f} s")
    print(f"{machine()}; L = {LEASE_MS} ms, kills of {', '.join(KINDS)} in turn, times in milliseconds\n")
    print(
        "| grant | trials | last call allowed, max | refused, p50 | max | inactive at the mint, p50 | max | after L |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for row in rows:
        times = [f"{row[name][part]:.1f}" for name in ("refused_ms", "inactive_ms") for part in ("p50", "max")]
        print(f"| {row['grant']} | {row['trials']} | {row['allowed_ms']['max']:.1f} | {' | '.join(times)} | 0 |")


if __name__ == "__main__":
    main()
