# SPDX-License-Identifier: Apache-2.0
"""Call a running mint with whatever its own description allows: ``python -m tests.mint.contract --seconds 60``.

schemathesis reads the OpenAPI document from the mint itself, makes calls from it, right ones and broken ones, and holds
every answer to it: no 5xx, no status, no type and no form that is not described.  Each call is signed as an operator,
an agent or a service would sign it, because a stranger's calls all end at the door.
"""

import argparse
import contextlib
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.credentials.jose import KeyFile, SigningKey, make_assertion, make_dpop
from arx_caps.embedded import EmbeddedValkey
from arx_caps.mint.server.init_realm import init_realm, sample_policy
from arx_caps.settings.realm import Realm
from arx_verifier.token.discharge import third_party_caveats
from arx_verifier.token.macaroon import Macaroon
from tests.mint.harness import AGENT, LOOKUP, now_ms
from tests.postgres import running
from tests.servers import free_ports, until

BINARY = "application/vnd.arx.decisions"
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
]
SPARE = "acme/support/spare"  # may be changed and deactivated: no test signs with its key
# What is made up for these is replaced by what a caller would send.
PLACEHOLDERS = ("Authorization", "DPoP", "Arx-Batch", "Content-Type")


class Who(NamedTuple):
    """A caller: a key, and a token where the caller has one."""

    key: SigningKey
    token: str | None


@schemathesis.serializer(BINARY)  # type: ignore[untyped-decorator]
def _binary(_: Any, value: Any) -> bytes:
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


class Contract:
    """One run against one mint.

    Args:
        realm: Its realm.

    Attributes:
        prefixes: What the paths of the operations begin with that are called.
        weights: How many times as often as others a path is called.
    """

    prefixes: tuple[str, ...] = ("/",)
    weights: Mapping[str, int] = {}

    def __init__(self, realm: Realm) -> None:
        self._realm = realm
        self._policy = realm.policy_path.read_text(encoding="utf-8")  # a policy that is loaded is written there
        self._http = httpx.Client(base_url=realm.issuer, trust_env=False, timeout=30)
        self.calls: dict[str, set[int]] = {}
        self._operator = KeyFile.load(realm.operator_key_path)
        self._agent = KeyFile.generate("agent", AGENT, realm.issuer)
        self._service = SigningKey.generate()
        self._session: Who | None = None
        self._wanted: dict[str, Any] = {}
        operator = self._sign_in()
        for path, jwk in ((AGENT, self._agent.key.public.jwk), (SPARE, SigningKey.generate().public.jwk)):
            self._made(self._send(operator, "POST", "/v1/agents", {"path": path, "jwk": jwk}))
        spare = {"name": "spare", "jwk": SigningKey.generate().public.jwk, "role": "read-only"}
        self._made(self._send(operator, "POST", "/v1/operators", spare))
        invited = self._made(self._send(operator, "POST", "/v1/services/invitations", {"audience": "orders"}))
        enrolment = {"enrolment": invited["enrolment"]}
        self._made(self._send(Who(self._service, None), "POST", "/v1/services/keys", enrolment))

    def run(self, *, examples: int, until_s: float) -> None:
        """Call every operation.

        Args:
            examples: Calls of each operation at most.
            until_s: When to stop, by the monotonic clock.

        Raises:
            Exception: An answer is not as it is described.
        """
        document = self._http.get("/openapi.json").json()
        schema = schemathesis.openapi.from_dict(document)
        for found in schema.get_all_operations():
            operation = found.ok()
            if operation.path.startswith(self.prefixes) and time.monotonic() < until_s:
                self._try(operation, self.callers(), examples * self.weights.get(operation.path, 1), until_s)

    def callers(self) -> dict[str, Who]:
        """Return who calls, each able to: the last operation's calls may have ended or changed what they need."""
        operator = self._sign_in()
        assert self._send(operator, "POST", "/v1/policies", {"policy": self._policy}).is_success
        callers = {"operator": operator, "agent": self._open(), "service": Who(self._service, None)}
        self._ask(callers["agent"])
        return callers

    def unsuccessful(self) -> list[str]:
        """Return the operations of which no call did what it is for, if each one should have."""
        return []

    def _try(self, operation: Any, callers: dict[str, Who], examples: int, until_s: float) -> None:
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=(Phase.generate,),
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(), who=st.sampled_from(sorted(callers)), known=st.booleans())
        def attempt(case: Any, who: str, known: bool) -> None:
            if time.monotonic() < until_s:
                if known:
                    self._fill_in(case, callers[who])
                answer = self._case(case, callers[who])
                self.calls.setdefault(operation.label, set()).add(answer.status_code)
                case.validate_response(answer, checks=CHECKS)

        attempt()

    def _fill_in(self, case: Any, who: Who) -> None:
        """Put what there is for what was made up, so that calls also come as far as to do something."""
        session = str(Macaroon.parse(self._session.token).unverified_identifier.session) if self._session else ""
        paths = {"path": SPARE, "session": session, "name": "spare", "audience": "orders"}
        paths["approval"] = self._wanted["approval"]
        for name in set(case.path_parameters or {}) & set(paths):
            case.path_parameters[name] = paths[name]
        if isinstance(case.body, dict):
            members = {
                "assertion": make_assertion(
                    self._agent, audience=self._realm.issuer, now=now_ms(), session_key=who.key.public
                ),
                "jwk": SigningKey.generate().public.jwk,
                "path": f"{AGENT}/{secrets.token_hex(4)}",
                "name": secrets.token_hex(4),
                "targets": [f"session:{session}"],
                "audience": "payments",
                "role": "read-only",
                **LOOKUP,
                **self._wanted,
            }
            case.body |= {name: members[name] for name in set(case.body) & set(members)}

    def _case(self, case: Any, who: Who) -> httpx.Response:
        asked = case.as_transport_kwargs(base_url=self._realm.issuer)
        headers = {name: text for name, text in asked.pop("headers").items() if name not in PLACEHOLDERS}
        kind = {"Content-Type": case.media_type} if case.media_type else {}
        content = asked.get("data")
        written = "data" if isinstance(content, dict) else "content"  # a form, or bytes
        body = {"json": asked["json"]} if "json" in asked else {written: content} if content is not None else {}
        # A value that no header can hold is the client's mistake, not the mint's.
        visible = {name: text for name, text in headers.items() if text.isascii() and text.isprintable()}
        request = self._http.build_request(
            asked["method"], asked["url"], params=asked.get("params"), headers={**visible, **kind}, **body
        )
        return self._signed(who, request)

    def _signed(self, who: Who, request: httpx.Request) -> httpx.Response:
        path = request.url.raw_path.partition(b"?")[0].decode("ascii")
        signed = {"method": request.method, "url": self._realm.issuer + path, "now": now_ms(), "token": who.token}
        request.headers["DPoP"] = make_dpop(who.key, **signed)
        if who.token is not None:
            request.headers["Authorization"] = f"DPoP {who.token}"
        return self._http.send(request)

    def _send(self, who: Who, method: str, path: str, body: Any) -> httpx.Response:
        return self._signed(who, self._http.build_request(method, path, json=body))

    def _sign_in(self) -> Who:
        assertion = make_assertion(self._operator, audience=self._realm.issuer, now=now_ms())
        who = Who(self._operator.key, None)
        return who._replace(
            token=self._made(self._send(who, "POST", "/v1/operators/token", {"assertion": assertion}))["token"]
        )

    def _open(self) -> Who:
        """Open a session, for the next operation's calls: the last one's may have ended."""
        who = Who(SigningKey.generate(), None)
        key, now = who.key.public, now_ms()
        assertion = make_assertion(self._agent, audience=self._realm.issuer, now=now, session_key=key)
        answer = self._send(who, "POST", "/v1/sessions", {"assertion": assertion})
        if self._session is None or answer.is_success:  # else there are as many open as may be
            self._session = who._replace(token=self._made(answer)["token"])
        return self._session

    def _ask(self, agent: Who) -> None:
        """Ask for an approval, and keep what there is to ask for and to answer."""
        body = {"template": "refund", "params": {"order_id": "o-1", "amount": 50}}
        bundle = Bundle.parse(self._made(self._send(agent, "POST", "/v1/tasks", body))["bundle"])
        (third_party,) = third_party_caveats(bundle.tokens["payments"])
        wanted: dict[str, Any] = {"caveat": third_party.encode().decode(), "tool": "payments.refund"}
        wanted["args"] = {"order_id": "o-1", "amount": 50}
        asked = self._made(self._send(agent, "POST", "/v1/discharges", wanted))["approval"]
        self._wanted = wanted | {"approval": asked["id"]}

    @staticmethod
    def _made(answer: httpx.Response) -> dict[str, Any]:
        assert answer.status_code == 201, answer.text
        reply: dict[str, Any] = answer.json()
        return reply


@contextlib.contextmanager
def running_mint(folder: Path, port: int, database: str | None, policy: str = "", more: str = "") -> Iterator[Realm]:
    """Run a realm's mint as a process, with a store of its own.

    Args:
        folder: For its files.
        port: Where it listens.
        database: URL of a PostgreSQL, or None.
        policy: Replaces the sample policy.
        more: Further lines of ``realm.toml``.
    """
    listen = f"127.0.0.1:{port}"
    issuer = f"http://{listen}"
    realm = init_realm(folder / "realm", name="contract", issuer=issuer, listen=listen, database=database)
    policy = policy or sample_policy("acme").replace("# approvals = ", "approvals = ")
    realm.policy_path.write_text(policy, encoding="utf-8")
    with (realm.folder / "realm.toml").open("a", encoding="utf-8") as file:
        file.write(more)
    with EmbeddedValkey(folder / "valkey") as store:
        command = [sys.executable, "-m", "arx_caps.mint.server.serve", "--realm-dir", str(realm.folder), "--until-eof"]
        environment = {**os.environ, "ARX_STORE_URL": store.url}
        file = folder / "mint.log"
        with file.open("w") as log:
            process = subprocess.Popen(command, stdin=subprocess.PIPE, stderr=log, env=environment)
        assert process.stdin is not None
        try:
            until(lambda: '"ready": true' in file.read_text() or process.poll() is not None)
            if process.poll() is not None:
                raise RuntimeError(file.read_text())
            yield realm
        finally:
            process.stdin.close()
            process.wait(60)


@contextlib.contextmanager
def _contract(folder: Path, port: int, database: str | None, *, oauth: bool) -> Iterator[Contract]:
    if not oauth:
        with running_mint(folder, port, database) as realm:
            yield Contract(realm)
        return
    from tests.mint.contract_oauth import POLICY, SETTINGS, OAuthContract
    from tests.mint.login import MINT_SECRET, issuer, settings

    os.environ["ARX_TEST_LOGIN_SECRET"] = MINT_SECRET
    mint = f"http://127.0.0.1:{port}"
    with issuer(mint) as login:
        policy = POLICY.format(login=login.url, mint=mint)
        with running_mint(folder, port, database, policy, settings(login.url) + SETTINGS) as realm:
            yield OAuthContract(realm, login)


def main() -> None:
    """Run as a program."""
    parser = argparse.ArgumentParser(description="Hold a running mint to its own description.")
    parser.add_argument("--seconds", type=float, default=60, help="about how long")
    parser.add_argument("--port", type=int, default=0, help="where the mint listens; any free one by default")
    parser.add_argument("--postgres", action="store_true", help="with a PostgreSQL, else with SQLite")
    parser.add_argument(
        "--oauth", action="store_true", help="the OAuth routes alone, as clients and browsers call them"
    )
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="arx-contract-"))
        database = stack.enter_context(running()).database() if options.postgres else None
        port = options.port or free_ports(1)[0]
        contract = stack.enter_context(_contract(Path(folder), port, database, oauth=options.oauth))
        ends = time.monotonic() + options.seconds
        rounds = 0
        while time.monotonic() < ends:
            contract.run(examples=10, until_s=ends)
            rounds += 1
        for label, statuses in sorted(contract.calls.items()):
            print(f"{label:50} {' '.join(map(str, sorted(statuses)))}")
        if failed := contract.unsuccessful():
            sys.exit(f"no call did what it is for: {', '.join(failed)}")
        print(f"{len(contract.calls)} operations, {rounds} rounds: every answer is as it is described")


if __name__ == "__main__":
    main()
