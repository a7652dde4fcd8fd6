# SPDX-License-Identifier: Apache-2.0
"""An agent could read the gateway's credential for an upstream, if the upstream echoed its request or its environment.

Debug pages, error texts and tools that show the environment do so.  An agent with the credential calls the upstream
without the gateway: no policy, no record, no kill.
"""

import contextlib
import json
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import httpx
import pytest

from arx_verifier import Rule
from arx_verifier.testing import UnsafeTestRealm
from tests.gateway.served_door import call_tool, open_door

pytestmark = pytest.mark.servers
SECRET = "canary-of-the-upstream"
PRINTENV = """
import json, os, sys
for line in sys.stdin:
    message = json.loads(line)
    content = [{"type": "text", "text": json.dumps(dict(os.environ))}]
    print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": {"content": content}}), flush=True)
"""


class _Echo(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        place, key = self.path.removeprefix("/"), str(self.headers["authorization"])
        self.send_response(200)
        if place == "header":
            self.send_header("x-debug", key)
        stream = place == "stream"
        body = b"{}" if place in ("header", "none") else json.dumps({"headers": key}).encode()
        self.send_header("content-type", "text/event-stream" if stream else "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        for byte in body:
            self.wfile.write(bytes([byte]))
            self.wfile.flush()

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.path = "/body"
        self.do_GET()

    def log_message(self, *_: object) -> None: ...


@contextlib.contextmanager
def echo() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Echo)
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def credential(tmp_path: Path) -> dict[str, dict[str, str]]:
    """A credential in a file."""
    (tmp_path / "key").write_text(SECRET)
    (tmp_path / "key").chmod(0o600)
    return {"credential": {"from": "file:key", "prefix": "Bearer "}}


@pytest.mark.parametrize("place", ["header", "body", "stream"])
def test_a_service_that_echoes_its_request(place: str, tmp_path: Path, credential: dict[str, dict[str, str]]) -> None:
    """Nothing of it is passed on; an answer without it is."""
    realm = UnsafeTestRealm("orders")
    caller = realm.caller(Rule(tool="orders.get", open=True))
    with (
        echo() as url,
        open_door(realm, tmp_path, url=url, routes={"GET /{place}": "orders.get"}, **credential) as door,
    ):
        assert httpx.get(f"{door}/none", auth=caller).json() == {}  # type: ignore[arg-type]
        if place == "stream":
            with httpx.stream("GET", f"{door}/{place}", auth=caller) as answer:  # type: ignore[arg-type]
                got: list[bytes] = []
                with pytest.raises(httpx.RemoteProtocolError):
                    got.extend(answer.iter_raw())
            assert b'{"headers": "Bearer '.startswith(b"".join(got))
            return
        refused = httpx.get(f"{door}/{place}", auth=caller)  # type: ignore[arg-type]
    assert (refused.status_code, refused.json()["may_have_run"]) == (502, True)
    assert SECRET not in f"{refused.headers} {refused.text}"


@pytest.mark.parametrize("way", ["http", "stdio"])
def test_an_mcp_server_that_shows_it(way: str, tmp_path: Path, credential: dict[str, dict[str, str]]) -> None:
    """The call has an error."""
    realm = UnsafeTestRealm("orders")
    caller = realm.caller(Rule(tool="orders.printenv"))
    with contextlib.ExitStack() as stack:
        command = {"command": [sys.executable, "-c", PRINTENV], "env": {"KEY": "file:key"}, "isolation": "none"}
        terms = {"url": stack.enter_context(echo()), **credential} if way == "http" else command
        answer = call_tool(stack.enter_context(open_door(realm, tmp_path, **terms)), caller, "printenv")
    assert answer.json()["error"]["message"] == "upstream orders answered with its credential"
    assert SECRET not in f"{answer.headers} {answer.text}"
