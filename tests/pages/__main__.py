# SPDX-License-Identifier: Apache-2.0
"""Look at login and consent in Chromium, with a real mint and a real OpenID provider: ``make pages``.

An error in the browser's console, a page that breaks its Content-Security-Policy, one that is wider than a window, and
what axe finds fail.  The pictures are in ``build/pages/shots``.
"""

import contextlib
import json
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode

from tests.mint.login import challenge
from tests.mint.nanoidp import USERS, provider
from tests.realm_folder import RealmFolder
from tests.routes.environments import ROOT, environment_of
from tests.servers import free_ports

BUILD: Final = ROOT / "build" / "pages"
PACKAGES: Final = ("playwright==1.65.2", "axe-playwright-python==0.1.8")
AGENT: Final = "acme/support/triage"
LONG: Final = "acme/" + "customer-relations/" * 2 + "refunds-and-returns"
TOOLS: Final = [
    f'{{ tool = "orders.{verb}_{noun}", args = {{ order_id = "$order_id", customer = "$subject", '
    f'reason = {{ one_of = ["damaged on its way to the customer", "never arrived", "other"] }}, '
    f"amount = {{ range = [0, 250] }}, note = {{ max_length = 200, optional = true }} }} }}"
    for verb in ("list", "get", "create", "update", "cancel", "archive_and_forget_everything_about")
    for noun in ("orders", "refunds", "shipments")
]
POLICY: Final = f"""
[issuer.corp]
url = "ISSUER"
jwks = "ISSUER/.well-known/jwks.json"
audience = ["unused"]
algorithms = ["RS256"]
[audience.orders]
origins = ["https://tools.example"]
[session.support]
agents = ["acme/**"]
ttl = "8h"
subject = "allowed"
subjects = [ {{ issuer = "corp" }} ]
subject_outlives = "8h"
[task.lookup]
agents = ["acme/**"]
subjects = [ {{ issuer = "corp" }} ]
params = {{ order_id = {{ max_length = 10 }} }}
ttl = "10m"
depth = 0
audience = ["orders"]
allow = [ {{ tool = "orders.get", args = {{ order_id = "$order_id", customer = "$subject" }} }} ]
[task.status]
agents = ["acme/**"]
ttl = "10m"
audience = ["orders"]
allow = [ {{ tool = "orders.status", any = true }}, {{ tool = "orders.ping", args = {{}} }} ]
[task.refunds-and-returns-of-all-regions]
agents = ["acme/**"]
subjects = [ {{ issuer = "corp" }} ]
params = {{ order_id = {{ max_length = 400 }} }}
ttl = "10m"
audience = ["orders"]
allow = [ {", ".join(TOOLS)} ]
"""


class _Program(BaseHTTPRequestHandler):
    """The program to which people come back."""

    def do_GET(self) -> None:
        body = b"<!doctype html><title>program</title><link rel=icon href='data:,'><p>back"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Write nothing."""


class World(RealmFolder):
    """A realm of its own with a login.

    Args:
        folder: For its files.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        (self._port,) = free_ports(1)
        self.mint = f"http://127.0.0.1:{self._port}"

    @contextlib.contextmanager
    def running(self, issuer: str) -> Iterator[None]:
        """Run the mint."""
        self.make(self._port, POLICY.replace("ISSUER", issuer), issuer, scope="openid profile email")
        with self.up(ready='"schema": "arx/up'):
            yield

    def begin(self, agent: str, redirect: str, scopes: tuple[str, ...], **query: str) -> str:
        """Register a client of an agent, and return the URL at which a person's journey begins."""
        with contextlib.suppress(RuntimeError):  # enrolled before
            self.arx("agent", "enrol", agent, "--key-out", str(self.folder / f"{len(agent)}.key"))
        words = [word for scope in scopes for word in ("--scope", scope)]
        client = self.arx("client", "add", agent, *words, "--public", "--redirect", redirect)["client"]["id"]
        asked = {"response_type": "code", "client_id": client, "redirect_uri": redirect, "state": "s"}
        asked |= {"resource": "https://tools.example/orders", "scope": " ".join(scopes)}
        asked |= {"code_challenge": challenge(), "code_challenge_method": "S256"} | query
        return f"{self.mint}/oauth/authorize?{urlencode(asked)}"


def main() -> None:
    """Run it.

    Raises:
        SystemExit: A page has a fault, or there is no Chromium.
    """
    chromium = shutil.which("chromium") or sys.exit("no chromium is installed: apt-get install chromium")
    python = environment_of(BUILD / "python", *PACKAGES)
    (axe,) = (BUILD / "python").glob("lib/*/site-packages/axe_playwright_python/axe.min.js")
    shutil.rmtree(BUILD / "shots", ignore_errors=True)
    (BUILD / "shots").mkdir(parents=True)
    program = ThreadingHTTPServer(("127.0.0.1", 0), _Program)
    threading.Thread(target=program.serve_forever, daemon=True).start()
    with tempfile.TemporaryDirectory() as name:
        folder, redirect = Path(name), f"http://127.0.0.1:{program.server_port}/callback"
        (folder / "idp").mkdir()
        world = World(folder)
        with provider(folder / "idp", world.mint) as issuer, world.running(issuer):
            task = "refunds-and-returns-of-all-regions"
            details = [{"type": "arx_task", "params": {"order_id": "0" * 150}}]
            plan = {"mint": world.mint, "issuer": issuer, "chromium": chromium, "axe": str(axe)}
            plan |= {"shots": str(BUILD / "shots"), "person": "bob", "password": USERS["bob"]["password"]}
            plan |= {"program": f"http://127.0.0.1:{program.server_port}"}
            plan["pages"] = {
                "short": world.begin(AGENT, redirect, ("lookup",)),
                "long": world.begin(LONG, redirect, (task,), authorization_details=json.dumps(details)),
                "several": world.begin(AGENT, redirect, ("status", "lookup", task)),
                "error": f"{world.mint}/oauth/authorize?client_id=other",
            }
            done = subprocess.run(
                [python, ROOT / "tests" / "pages" / "browser.py"], input=json.dumps(plan), text=True, check=False
            )
    program.shutdown()
    if done.returncode:
        sys.exit(f"the pages have faults; see {BUILD / 'shots'}")
    sys.stdout.write(f"{len(list((BUILD / 'shots').iterdir()))} pictures without a fault: {BUILD / 'shots'}\n")


if __name__ == "__main__":
    main()
