# SPDX-License-Identifier: Apache-2.0
"""A thief of an audience key, or a hostile mint, could make every call of a service: nothing there was its own.

Limits of the service hold for each token, and no answer of a mint writes, changes or removes them.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

import httpx
import pytest

from arx_caps.agent.sessions.mint_client import MintClient
from arx_caps.embedded import EmbeddedValkey
from arx_caps.service import Invitation, KeyRefresher, join_service
from arx_verifier import Rule, SettingsError, open_verifier
from arx_verifier.journal.decision import InMemoryDecisions
from arx_verifier.request import HttpCall
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from arx_verifier.token.call_proof import CallSigner, http_fields
from arx_verifier.verification.verifier import Verifier
from tests.adapters.asgi_server import serving
from tests.agent.live import now_ms
from tests.cli.helpers import arx
from tests.gateway.gateway_realm import AUDIENCE, GatewayRealm, gateway
from tests.gateway.served_door import Recorder
from tests.servers import free_ports, until
from tests.support import INCARNATION, access, mint

pytestmark = pytest.mark.spec("20.1")

KEY: Final = bytes(range(32))
LIMITS: Final = """
net = ["192.0.2.0/24", "127.0.0.0/8"]

[[rules]]
tool = "orders.refund"
args.amount = { max = 20 }
open = true

[[rules]]
tool = "orders.get"
"""
LOOSE: Final = {"limits": {"rules": [{"tool": "*"}]}, "service": {"limits": {}}, "net": ["0.0.0.0/0"]}
WATCH: Final = {"mode": "watch", "watch": True, "until": "2026-12-20T00:00:00Z", "record": "arguments"}
TABLES: Final = """
[upstream.orders]
audience = "orders"
url = "http://127.0.0.1:{behind}"
[upstream.orders.routes]
"POST /refund" = "orders.refund"
"POST /purge" = "orders.purge"
[upstream.orders.limits]
net = ["127.0.0.0/8"]
rules = [ {{ tool = "orders.refund", args = {{ amount = {{ max = 20 }} }} }} ]

[decider.shop]
kind = "forward-auth"
listen = "127.0.0.1:{decider}"
audience = "orders"
service = "shop.json"
limits = {{ rules = [ {{ tool = "orders.get", args = {{ order_id = "o-1" }} }} ] }}
[decider.shop.routes]
"GET /orders/{{order_id}}" = "orders.get"
"""


@pytest.fixture
def hostile() -> Iterator[str]:
    """A mint that answers everything with keys, and with limits that allow everything."""
    text = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8"
    kids = iter(["k1.0", *(f"k1.{number}" for number in range(1, 100))])

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            keys = [{"kid": next(kids), "key": text, **LOOSE}, {"kid": "k0.9", "key": text}]
            facts = {"realm": "acme", "audience": "orders", "keys": keys, "max_ttl_ms": 86_400_000}
            answer = json.dumps(
                {**facts, "refresh_ms": 60_000, "store": "redis://127.0.0.1:9", **LOOSE, **WATCH}
            ).encode()
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        do_POST = do_GET  # noqa: N815 - of http.server

        def log_message(self, *args: Any) -> None:
            """Print nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def opened(file: Path, limits: Path) -> Verifier:
    return open_verifier(file, epochs=UnsafeLocalEpochs(INCARNATION), decisions=InMemoryDecisions(), limits=limits)


def codes(verifier: Verifier) -> dict[str, str]:
    """What becomes of tokens that the thief of the key makes, which allow everything."""
    at, token = now_ms(), mint(key=KEY, iat=now_ms(), exp=now_ms() + 60_000, kid=verifier.keys.kids[0]).encode()
    calls: dict[str, Any] = {
        "refund": ("orders.refund", {"amount": 20, "to": "x"}, "192.0.2.7"),
        "large": ("orders.refund", {"amount": 21, "to": "x"}, "192.0.2.7"),
        "purge": ("orders.purge", {}, "192.0.2.7"),
        "elsewhere": ("orders.get", {}, "198.51.100.7"),
    }
    return {
        name: verifier.decide(token, access(tool, args, at=at, peer=peer)).code
        for name, (tool, args, peer) in calls.items()
    }


def test_no_answer_of_a_mint_changes_limits(tmp_path: Path, hostile: str) -> None:
    """At the enrolment and at each refresh; the file of the limits is never written, nor the service file with them."""
    limits, file, key = tmp_path / "limits.toml", tmp_path / "orders.json", tmp_path / "orders.key"
    limits.write_text(LIMITS)
    before = (limits.stat().st_mtime_ns, limits.read_bytes())
    kept = {"refund": "ok"} | dict.fromkeys(["large", "purge", "elsewhere"], "over_service_limit")
    client = MintClient(hostile, now=now_ms)
    join_service(Invitation("orders", "arxe1_x", hostile), client, out=file, key_out=key)
    verifier = opened(file, limits)
    assert codes(verifier) == kept
    refresher = KeyRefresher(file, verifier.keys)
    for _ in range(3):
        assert refresher.refresh()
        assert codes(verifier) == kept
        assert codes(opened(file, limits)) == kept
        assert not {"limits", *WATCH} & json.loads(file.read_text()).keys()
        assert verifier.watch is None
        assert opened(file, limits).watch is None
    refresher.close()
    client.close()
    assert (limits.stat().st_mtime_ns, limits.read_bytes()) == before


@pytest.mark.spec("12.7")
@pytest.mark.parametrize("member", WATCH)
def test_no_service_file_switches_a_watch_on(tmp_path: Path, hostile: str, member: str) -> None:
    """A service file with a word of it is refused at the start."""
    file = tmp_path / "orders.json"
    client = MintClient(hostile, now=now_ms)
    join_service(Invitation("orders", "arxe1_x", hostile), client, out=file, key_out=tmp_path / "orders.key")
    client.close()
    file.write_text(json.dumps(json.loads(file.read_text()) | {member: WATCH[member]}))
    with pytest.raises(SettingsError, match=member):
        open_verifier(file, epochs=UnsafeLocalEpochs(INCARNATION), decisions=InMemoryDecisions())


def test_an_invitation_with_limits_writes_none(tmp_path: Path, hostile: str) -> None:
    """`arx apply` and `arx service invite` write what a mint answers; `arx service enrol` takes its own members."""
    file, invitation = tmp_path / "orders.json", tmp_path / "orders.invite"
    facts = {"audience": "orders", "enrolment": "arxe1_x", "issuer": hostile, "expires_at": now_ms() + 60_000}
    invitation.write_text(json.dumps({**facts, **LOOSE}))
    invitation.chmod(0o600)
    words = ("--invitation", str(invitation), "--out", str(file), "--key-out", str(tmp_path / "orders.key"))
    done = arx("service", "enrol", *words)
    assert done.exit_code == 0, done.err
    assert not LOOSE.keys() & json.loads(file.read_text()).keys()
    (tmp_path / "limits.toml").write_text(LIMITS)
    assert codes(opened(file, tmp_path / "limits.toml"))["large"] == "over_service_limit"


@pytest.mark.slow
@pytest.mark.servers
def test_a_gateway_and_a_decider_hold_forged_tokens(tmp_path: Path, valkey: EmbeddedValkey, realm_name: str) -> None:
    """What the realm's audience key has signed reaches no service beyond the table of its upstream."""
    realm, behind = GatewayRealm(tmp_path, valkey.url, name=realm_name), Recorder()
    realm.write_service("shop.json", journal="shop")
    signer = CallSigner(realm.caller(Rule(tool="*"), session="s-" + "a" * 16).macaroon, AUDIENCE)
    own, decider = free_ports(2)

    def signed(method: str, target: str, body: bytes = b"") -> dict[str, str]:
        call = HttpCall(method, target.encode(), hashlib.sha256(body).digest())
        return {"authorization": f"Bearer {signer.sign(http_fields(call), now_ms())}"}

    def post(path: str, body: bytes) -> str:
        headers = {**signed("POST", f"/orders{path}", body), "content-type": "application/json"}
        answer = httpx.post(f"http://127.0.0.1:{own}/orders{path}", content=body, headers=headers, timeout=30)
        return "ok" if answer.status_code == 200 else str(answer.json()["code"])

    def ask(target: str) -> str:
        headers = {"x-forwarded-method": "GET", "x-forwarded-uri": target, "x-forwarded-for": "192.0.2.7"}
        answer = httpx.get(f"http://127.0.0.1:{decider}/", headers=headers | signed("GET", target), timeout=30)
        return "ok" if answer.status_code == 200 else str(answer.json()["code"])

    with serving(behind) as port:
        tables = TABLES.format(behind=port, decider=decider)
        with gateway(realm.write(tables, port=own), tmp_path / "gateway.log"):
            until(lambda: post("/refund", b'{"amount":20}') == "ok")
            arrived = len(behind.arrived)
            assert post("/refund", b'{"amount":21}') == "over_service_limit"
            assert post("/purge", b"{}") == "over_service_limit"
            assert len(behind.arrived) == arrived
            until(lambda: ask("/orders/o-1") == "ok")
            assert ask("/orders/o-2") == "over_service_limit"
