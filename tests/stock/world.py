# SPDX-License-Identifier: Apache-2.0
"""A realm where people log in at nanoidp, with a gateway before an MCP server, and the clients that connect to it."""

import contextlib
import json
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.mint.nanoidp import provider
from tests.realm_folder import RealmFolder
from tests.routes.environments import ROOT
from tests.servers import free_ports

AGENT: Final = "acme/apps"
LIFE_S: Final = (
    12  # of an access token: so long that a login ends before, and so short that a test can wait for its end
)
POLICY: Final = """
[issuer.corp]
url = "{issuer}"
jwks = "{issuer}/.well-known/jwks.json"
audience = ["unused"]
algorithms = ["RS256"]
[audience.orders]
origins = ["http://127.0.0.1:{gateway}"]
[session.people]
agents = ["acme/**"]
ttl = "1h"
subject = "allowed"
subjects = [ {{ issuer = "corp" }} ]
subject_outlives = "1h"
[task.look]
agents = ["acme/**"]
ttl = "10m"
audience = ["orders"]
allow = [ {{ tool = "orders.get", args = {{ order_id = {{ one_of = ["o-1", "o-2"] }} }} }} ]
[task.more]
agents = ["acme/**"]
params = {{ note = {{ max_length = 10 }} }}
ttl = "{life}s"
audience = ["orders"]
allow = [ {{ tool = "orders.secret", args = {{}} }} ]
[task.others]
agents = ["acme/**"]
subjects = [ {{ issuer = "corp", claims = {{ sub = "no-person" }} }} ]
ttl = "{life}s"
audience = ["orders"]
allow = [ {{ tool = "orders.drop", args = {{}} }} ]
[task.pay]
agents = ["acme/**"]
ttl = "10m"
audience = ["orders"]
bearer = "allow"
allow = [
  {{ tool = "orders.drop", args = {{ n = {{ max = 20 }} }} }},
  {{ tool = "orders.get", args = {{ order_id = "o-1" }} }},
]
approvals = [ {{ tools = ["orders.drop"] }} ]
"""
GATEWAY: Final = """
[gateway]
listen = ["127.0.0.1:{gateway}"]
[upstream.orders]
audience = "orders"
resource = "http://127.0.0.1:{gateway}/orders"
command = ["{python}", "{script}"]
isolation = "none"
"""
CLIENTS: Final = f"""\
clients_agent = "{AGENT}"
clients_scopes = ["look", "more", "others", "pay"]
clients_register = true
"""


class World(RealmFolder):
    """What runs.

    Args:
        folder: For its files.
        people: The names of the people who can log in.
    """

    def __init__(self, folder: Path, people: tuple[str, ...]) -> None:
        super().__init__(folder)
        self._people = people
        self._mint, self._gateway = free_ports(2)
        self.url, self._issuer = f"http://127.0.0.1:{self._gateway}/orders", f"http://127.0.0.1:{self._mint}"
        self._provider = ""

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Run provider, mint, gateway and MCP server."""
        idp = self.folder / "idp"
        idp.mkdir()
        users = {name: {"password": name, "email": f"{name}@acme.example", "groups": []} for name in self._people}
        with provider(idp, mint=self._issuer, users=users) as self._provider:
            ports = {"gateway": self._gateway, "python": sys.executable, "life": LIFE_S, "issuer": self._provider}
            self.make(self._mint, POLICY.format(**ports), self._provider, scope="openid profile email", more=CLIENTS)
            script = ROOT / "tests" / "gateway" / "upstream_mcp.py"
            (self.folder / "gateway.toml").write_text(GATEWAY.format(**ports, script=script))
            with self.up("--gateway", "gateway.toml", ready='"upstreams": ["orders"]'):
                self.arx("agent", "enrol", AGENT, "--key-out", str(self.folder / "apps.key"))
                yield

    def person(self, name: str, *tasks: str) -> "Person":
        """Return a person who logs in and chooses tasks, with a browser of their own."""
        return Person(self.folder, name, (self._issuer, self._provider), tasks)

    def kill(self, kind: str, *names: str) -> set[str]:
        """Kill targets of a kind, and return their names."""
        self.arx("kill", kind, *names, "--reason", "a test", "--yes")
        return {*names}

    def open_tasks(self, person: str, template: str = "") -> list[str]:
        """Return the open tasks of a person; with ``template``, those of it."""
        sessions = self.sessions(person)
        listed = self.arx("task", "list", "--agent", AGENT, "--state", "open")["tasks"]
        return [each["id"] for each in listed if each["session"] in sessions and template in each["template"]]

    def sessions(self, person: str) -> list[str]:
        """Return the open sessions of a person."""
        listed = self.arx("session", "list", "--agent", AGENT, "--state", "open")["sessions"]
        return [each["id"] for each in listed if each["subject"] and each["subject"]["subject"] == person]


class Person:
    """A person with a browser.

    Attributes:
        folder: Files of this person and their client.
        environment: That of their client, whose browser is this one.
        browser: The command that opens a URL, and waits.
    """

    def __init__(self, folder: Path, name: str, pages: tuple[str, ...], tasks: tuple[str, ...]) -> None:
        self.name, self.folder, self._pages = name, folder / name, pages
        self.folder.mkdir()
        self._file = self.folder / "person.json"
        self.browser = (sys.executable, "-m", "tests.stock.browser", str(self._file))
        program = self.folder / "browser"
        words = shlex.join(self.browser)
        log = shlex.quote(str(self.folder / "browser.log"))
        program.write_text(f'#!/bin/sh\ncd {shlex.quote(str(ROOT))}\n{words} "$1" >>{log} 2>&1 </dev/null &\n')
        program.chmod(0o755)
        kept = ("PATH", "LANG", "TMPDIR")
        self.environment = {each: os.environ[each] for each in kept if each in os.environ}
        self.environment |= {"HOME": str(self.folder), "BROWSER": str(program)}
        self.choose(*tasks)

    def choose(self, *tasks: str) -> None:
        """Choose other tasks from now on."""
        person = {"name": self.name, "password": self.name, "pages": self._pages, "tasks": tasks}
        self._file.write_text(json.dumps(person | {"params": {"note": "mine"}}))

    def logs(self) -> list[Path]:
        """Return what client and browser wrote."""
        return [file for name in ("stderr", "browser.log") if (file := self.folder / name).exists()]

    def visits(self) -> list[str]:
        """Return where each visit has ended."""
        file = self._file.with_suffix(".visits")
        return [str(json.loads(line)) for line in file.read_text().splitlines()] if file.exists() else []
