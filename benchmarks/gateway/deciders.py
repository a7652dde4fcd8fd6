# SPDX-License-Identifier: Apache-2.0
"""What a decider adds to nginx and Caddy, and how long a proxy of ``ext_authz`` waits for an answer.

nginx and Caddy run with the files of ``deploy/``, with and without the lines that ask a decider, before an nginx that
answers each request with the id of its decision.  ``ext_authz`` has no proxy here: a client made from its protocol asks
the decider, and its time, which includes that of gRPC for Python, is what a proxy waits for.  One client asks all in
turns over kept connections.  It signs each call before the clock starts, also where nothing reads the signature.

All deciders are of one ``arx gateway``, whose realm is in a real store; its tokens are made here, without a mint.
"""

import contextlib
import functools
import hashlib
import itertools
import json
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import grpc

from arx_caps.embedded import EmbeddedValkey
from arx_verifier import Rule
from arx_verifier.request import HttpCall
from arx_verifier.token.call_proof import CallSigner, http_fields
from benchmarks.gateway import turns
from benchmarks.gateway.connection import Connection
from benchmarks.gateway.places import CADDY, CADDY_ASKS, CHECK, NGINX, NGINX_ASKS, SHARED_CHECK, SHARED_NGINX_ASKS
from tests.agent.live import now_ms
from tests.gateway import protos
from tests.gateway.gateway_realm import AUDIENCE, GatewayRealm, gateway
from tests.gateway.proxy_programs import caddy, nginx, nginx_program, run_nginx
from tests.servers import free_ports

WITHOUT: Final = {NGINX_ASKS: NGINX, SHARED_NGINX_ASKS: NGINX, CADDY_ASKS: CADDY}
METHOD: Final = "/envoy.service.auth.v3.Authorization/Check"
RULE: Final = Rule(tool=f"{AUDIENCE}.get", args={"order_id": {"glob": "o-*"}})
UPSTREAM: Final = """
pid upstream.pid;
events {{}}
http {{
    access_log off;
    server {{
        listen 127.0.0.1:{port};
        return 200 "$http_x_arx_decision";
    }}
}}
"""
TABLE: Final = """
[decider.{name}]
kind = "{kind}"
listen = "127.0.0.1:{port}"
audience = "orders"
service = "{service}"
{more}
[decider.{name}.routes]
"GET /orders/{{order_id}}" = "orders.get"
"""
# By name: how a proxy asks, and whether used calls are in the store.
DECIDERS: Final = {
    "forward": ("forward-auth", False),
    "forward-shared": ("forward-auth", True),
    "check": ("ext-authz", False),
    "check-shared": ("ext-authz", True),
}


def latencies(count: int, seconds: float) -> dict[str, dict[str, float]]:
    """Return what ``turns.latencies`` does of the deciders; nothing without nginx."""
    if nginx_program() is None:
        return {}
    with tempfile.TemporaryDirectory(prefix="arx") as folder, _callers(Path(folder)) as callers:
        return turns.latencies(callers, WITHOUT, count, seconds)


@contextlib.contextmanager
def _callers(folder: Path) -> Iterator[dict[str, turns.Caller]]:
    upstream, own, plain, asks, shared, caddy_plain, caddy_asks, *rest = free_ports(7 + len(DECIDERS))
    ports = dict(zip(DECIDERS, rest, strict=True))
    with contextlib.ExitStack() as stack:
        store = stack.enter_context(EmbeddedValkey(folder / "store"))
        realm = GatewayRealm(folder, store.url)
        calls = _Calls(realm)
        text = "".join(_decider(realm, name, port) for name, port in ports.items())
        stack.enter_context(gateway(realm.write(text, port=own), folder / "gateway.log"))
        file = folder / "upstream.conf"
        file.write_text(UPSTREAM.format(port=upstream))
        stack.enter_context(run_nginx(file, upstream))
        found: dict[str, turns.Caller] = {}
        for name, run, port, decider in (
            (NGINX, nginx, plain, None),
            (NGINX_ASKS, nginx, asks, ports["forward"]),
            (SHARED_NGINX_ASKS, nginx, shared, ports["forward-shared"]),
            (CADDY, caddy, caddy_plain, None),
            (CADDY_ASKS, caddy, caddy_asks, ports["forward"]),
        ):
            stack.enter_context(run(folder / f"proxy-{port}", port, to=upstream, decider=decider))
            found[name] = calls.through(port, decided=decider is not None)
        for name, decider in ((CHECK, ports["check"]), (SHARED_CHECK, ports["check-shared"])):
            channel = stack.enter_context(grpc.insecure_channel(f"127.0.0.1:{decider}"))
            found[name] = calls.checks(channel)
        yield found


def _decider(realm: GatewayRealm, name: str, port: int) -> str:
    """Return a decider's table; its service file is as the mint writes it, and each has a journal of its own."""
    kind, shared = DECIDERS[name]
    realm.write_service(f"{name}.json", journal=f"journal-{name}")
    path = realm.folder / f"{name}.json"
    service = json.loads(path.read_text())
    del service["record_arguments"]
    if not shared:
        del service["nonces"]  # as for the one process of an audience
    path.write_text(json.dumps(service))
    more = 'body_header = "X-Arx-Body"' if kind == "forward-auth" else ""
    return TABLE.format(name=name, kind=kind, port=port, service=path.name, more=more)


class _Calls:
    """The signed calls of one agent; no two are alike."""

    def __init__(self, realm: GatewayRealm) -> None:
        self._signer = CallSigner(realm.caller(RULE, session="s-" + "a" * 16).macaroon, AUDIENCE)
        self._numbers = itertools.count()

    def _signed(self) -> tuple[str, str]:
        target = f"/orders/o-{next(self._numbers)}"
        fields = http_fields(HttpCall("GET", target.encode(), hashlib.sha256().digest()))
        return target, f"Bearer {self._signer.sign(fields, now_ms())}"

    def through(self, port: int, *, decided: bool) -> turns.Caller:
        """Return what calls the service through a proxy, and fails unless calls are decided on, or are not."""
        connection = Connection("127.0.0.1", port)

        def request() -> bytes:
            target, credential = self._signed()
            return f"GET {target} HTTP/1.1\r\nHost: shop\r\nAuthorization: {credential}\r\n\r\n".encode()

        def accept(answer: tuple[bytes, bytes]) -> None:
            head, body = answer
            if bool(body) != decided:
                raise RuntimeError(f"expected a decision: {decided}, got {body!r:.300}")
            if b"\r\nconnection: close" in head.lower():  # nginx closes a connection after 1,000 requests
                connection.connect()

        def call(seconds: float) -> list[float]:
            connection.connect()
            return _timed(seconds, request, connection.ask, accept)

        return call

    def checks(self, channel: grpc.Channel) -> turns.Caller:
        """Return what asks a decider of ``ext_authz``."""
        question, answer = (protos.message(f"envoy.service.auth.v3.Check{name}") for name in ("Request", "Response"))
        check = channel.unary_unary(
            METHOD, request_serializer=question.SerializeToString, response_deserializer=answer.FromString
        )

        def request() -> Any:
            target, credential = self._signed()
            made = question()
            http = made.attributes.request.http
            http.method, http.path, http.host, http.scheme, http.protocol = "GET", target, "shop", "https", "HTTP/2"
            http.headers.update({":authority": "shop", ":path": target, ":method": "GET", "authorization": credential})
            made.attributes.source.address.socket_address.address = "192.0.2.9"
            return made

        def accept(answer: Any) -> None:
            if answer.status.code != 0:
                raise RuntimeError(f"expected a call to be allowed, got {answer.denied_response}")

        return lambda seconds: _timed(seconds, request, functools.partial(check, timeout=30), accept)


def _timed(
    seconds: float, request: Callable[[], Any], ask: Callable[[Any], Any], accept: Callable[[Any], None]
) -> list[float]:
    """Ask as often as there is time for, and return how long each answer took, ms; neither signing nor checking."""
    times, until = [], time.perf_counter() + seconds
    while time.perf_counter() < until or not times:
        made = request()
        began = time.perf_counter()
        answer = ask(made)
        times.append((time.perf_counter() - began) * 1000)
        accept(answer)
    return times
