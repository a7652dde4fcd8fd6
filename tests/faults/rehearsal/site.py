# SPDX-License-Identifier: Apache-2.0
"""The site of the rehearsal: two mints behind nginx, PostgreSQL, a Redis with TLS and an ACL file, four services.

Everything is started as an operator starts it: by the servers' own programs, by ``arx``, and by the examples' services.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import httpx
import redis

from arx_caps.revocation import acl
from tests.postgres import Postgres
from tests.servers import free_ports
from tests.topologies.authority import Ca
from tests.topologies.fleet import LASTING

REALM: Final = "acme"
ROOT: Final = "root-of-the-store"
SERVICE: Final = Path(__file__).resolve().parents[3] / "arx_caps" / "demo" / "service.py"
READY_S: Final = 60.0
SERVICES: Final = (("orders", 1), ("orders", 2), ("payments", 1), ("payments", 2))
POLICY: Final = """\
[audience.orders]
origins = [{orders}]

[audience.payments]
origins = [{payments}]

[session.support]
agents = ["acme/**"]
ttl = "1h"

[task.refund]
agents = ["acme/**"]
params = {{ order_id = {{ max_length = 32 }}, amount = {{ range = [0, 100] }} }}
ttl = "30m"
depth = 2
audience = ["orders", "payments"]
allow = [
  {{ tool = "orders.get", args = {{ order_id = "$order_id" }} }},
  {{ tool = "payments.list", args = {{ order_id = "$order_id" }} }},
  {{ tool = "payments.refund", args = {{ order_id = "$order_id", amount = {{ range = [0, "$amount"] }} }} }},
]
"""
NGINX: Final = """\
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log warn;
events {{ worker_connections 512; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  upstream mints {{ server 127.0.0.1:{a} fail_timeout=1s; server 127.0.0.1:{b} fail_timeout=1s; }}
  server {{
    listen 127.0.0.1:{listen};
    location / {{
      proxy_pass http://mints;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header X-Forwarded-For $remote_addr;
      proxy_next_upstream error timeout http_502 http_503 http_504;
      proxy_connect_timeout 1s;
      client_max_body_size 8m;
    }}
  }}
}}
"""


class Process:
    """A program that is started, stopped, killed and started again with the same words."""

    def __init__(self, name: str, words: Sequence[str], environment: dict[str, str], log: Path) -> None:
        self.name, self._words, self._environment, self._log = name, list(words), environment, log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, clock: str = "") -> None:
        """Start it, with its clock so far off (``+40s``), and without waiting for it."""
        words = self._words
        environment = dict(self._environment)
        if clock:
            # Wall clock alone: a machine whose clock was set wrong still counts seconds as all do.
            words = ["faketime", "-f", clock, *words]
            environment["FAKETIME_DONT_FAKE_MONOTONIC"] = environment["DONT_FAKE_MONOTONIC"] = "1"
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(words, env=environment, stdout=log, stderr=log, start_new_session=True)

    def stop(self) -> None:
        """End it as a supervisor does, and wait for it."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End it as a crash does."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._process = None

    def last_words(self) -> str:
        """Return the end of what it wrote."""
        return self._log.read_text(encoding="utf-8", errors="replace")[-3000:] if self._log.exists() else ""


class Service(Process):
    """A tool service with a key of its own.

    Attributes:
        audience: Its audience.
        url: Its origin.
        file: What it starts from.
        journal: The folder of its journal.
    """

    audience: str
    url: str
    file: Path
    journal: Path


class Site:
    """Everything that a realm has, in one folder.

    Args:
        folder: An empty folder.
        postgres: A running server.
        say: Receives each event.
    """

    def __init__(self, folder: Path, postgres: Postgres, say: Callable[[str], None]) -> None:
        self.folder, self.postgres, self.say = folder, postgres, say
        self._ports = free_ports(8)
        self.issuer = f"http://127.0.0.1:{self._ports[1]}"
        self.database = postgres.database()
        self.ca = Ca.make(folder / "ca")
        self.passwords: dict[str, str] = {}
        self._logs = folder / "logs"
        self._logs.mkdir()
        self.realms = [folder / "mint-a", folder / "mint-b"]
        self._environment = {**os.environ, "ARX_HOME": str(self.realms[0])}
        self._environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.redis = self._make_redis()
        self.nginx = self._make_nginx()
        self.mints: list[Process] = []
        self.services: list[Service] = []

    # The store.

    def _make_redis(self) -> Process:
        place = self.folder / "redis"
        (place / "data").mkdir(parents=True)
        certificate, key = self.ca.issue("127.0.0.1")
        words = ["redis-server", "--port", "0", "--tls-port", str(self._ports[0]), "--bind", "127.0.0.1"]
        words += ["--dir", str(place / "data"), "--aclfile", str(place / "users.acl"), *LASTING]
        words += ["--maxmemory-policy", "noeviction", "--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
        words += ["--tls-ca-cert-file", str(self.ca.folder / "ca.pem"), "--tls-auth-clients", "no"]
        return Process("redis", words, dict(os.environ), self._logs / "redis.log")

    def store_url(self, role: str) -> str:
        """Return the store's address for a role's user."""
        user = ROOT if role == "root" else acl.user_name(role, REALM)
        return f"rediss://{user}@127.0.0.1:{self._ports[0]}/0?ssl_ca_certs={self.ca.folder / 'ca.pem'}"

    def store(self) -> redis.Redis:
        """Connect to the store as its administrator."""
        return redis.Redis(
            host="127.0.0.1",
            port=self._ports[0],
            username=ROOT,
            password=ROOT,
            ssl=True,
            ssl_ca_certs=str(self.ca.folder / "ca.pem"),
            socket_timeout=5,
        )

    def write_users(self) -> None:
        """Write the store's ACL file, with the lines that ``arx redis acl`` prints."""

        def line_of(role: str) -> str:
            words = ("redis", "acl", "--role", role, "--realm", REALM, "--store", self.store_url("root"))
            return self.arx(*words, "--file", "--new-password", str(self.folder / f"{role}.password")).strip()

        with ThreadPoolExecutor() as pool:
            lines = ["user default off", f"user {ROOT} on >{ROOT} ~* &* +@all", *pool.map(line_of, acl.ROLES)]
        self.passwords = {role: (self.folder / f"{role}.password").read_text().strip() for role in acl.ROLES}
        (self.folder / "redis" / "users.acl").write_text("\n".join(lines) + "\n")

    def start_store(self) -> None:
        """Start the store and wait until it answers."""
        self.redis.start()

        def answers() -> bool:
            with contextlib.suppress(redis.ConnectionError, redis.TimeoutError), self.store() as client:
                return bool(client.ping())
            return False

        self.until("the store answers", answers)

    def load_functions(self) -> None:
        """Load the functions into the store, as its administrator."""
        words = ("redis", "load", "--store", self.store_url("admin"), "--realm", REALM)
        self.arx(*words, password=self.passwords["admin"])

    # The mints and what stands before them.

    def _make_nginx(self) -> Process:
        place = self.folder / "nginx"
        place.mkdir()
        named = {"a": self._ports[2], "b": self._ports[3], "listen": self._ports[1]}
        (place / "nginx.conf").write_text(NGINX.format(folder=place, **named))
        return Process(
            "nginx", ["nginx", "-p", str(place), "-c", "nginx.conf"], dict(os.environ), self._logs / "nginx.log"
        )

    def _mint(self, place: int) -> Process:
        realm, port = self.realms[place], self._ports[2 + place]
        words = [sys.executable, "-m", "arx_caps.cli", "mint", "serve", "--realm-dir", str(realm)]
        words += ["--host", "127.0.0.1", "--port", str(port), "--behind-tls"]
        environment = {**self._environment, "ARX_HOME": str(realm), "ARX_STORE_PASSWORD": self.passwords["mint"]}
        return Process(f"mint {'ab'[place]}", words, environment, self._logs / f"mint-{'ab'[place]}.log")

    def copy_realm(self, to: Path) -> None:
        """Make a mint's folder from the files that operations.md says a mint needs."""
        source = next(each for each in self.realms if each != to and each.exists())
        to.mkdir(mode=0o700)
        for name in ("realm.toml", "policy.toml"):
            shutil.copy2(source / name, to / name)
        shutil.copytree(source / "keys", to / "keys", ignore=shutil.ignore_patterns("log.signed"))
        shutil.copy2(source / "operator.key", to / "operator.key")

    def ready(self, place: int) -> bool:
        """Return whether a mint reports that it is ready."""
        return self._answers(f"http://127.0.0.1:{self._ports[2 + place]}/readyz")

    def readiness(self, place: int) -> dict[str, Any]:
        """Return what a mint says of its readiness."""
        answer = httpx.get(f"http://127.0.0.1:{self._ports[2 + place]}/readyz", timeout=5)
        reply: dict[str, Any] = answer.json()
        return reply

    def start_mint(self, place: int, *, clock: str = "") -> None:
        """Start a mint; wait until it is ready, unless its clock is off."""
        self.mints[place].start(clock=clock)
        if clock:
            self.until("it listens", lambda: self._answers(f"http://127.0.0.1:{self._ports[2 + place]}/healthz"))
        else:
            self.until(f"mint {'ab'[place]} is ready", lambda: self.ready(place), self.mints[place])

    def _answers(self, url: str) -> bool:
        try:
            with urllib.request.urlopen(url, timeout=2) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    # The services.

    def _service(self, audience: str, number: int, port: int) -> Service:
        name = f"{audience}-{number}"
        file, key = self.folder / f"{name}.json", self.folder / f"{name}.key"
        invitation, journal = self.folder / f"{name}.invite", self.folder / "journals" / name
        self.arx("service", "invite", audience, "--out", str(invitation))
        words = ("service", "enrol", "--invitation", str(invitation), "--out", str(file), "--key-out", str(key))
        self.arx(*words, "--journal", str(journal), "--store", self.store_url("verifier"))
        command = [sys.executable, str(SERVICE), audience, "--service-file", str(file)]
        command += ["--data", str(self.folder / f"{name}.db"), "--port", str(port)]
        environment = {**self._environment, "ARX_STORE_PASSWORD": self.passwords["verifier"]}
        service = Service(name, command, environment, self._logs / f"{name}.log")
        service.audience, service.url = audience, f"http://127.0.0.1:{port}"
        service.file, service.journal = file, journal
        return service

    def serving(self, service: Service) -> bool:
        """Return whether a service listens."""
        try:
            urllib.request.urlopen(service.url + "/nothing", timeout=2)
        except urllib.error.HTTPError as error:
            with error:
                return True
        except OSError:
            return False
        return True

    def start_service(self, service: Service, *, clock: str = "") -> None:
        """Start a service and wait until it listens."""
        service.start(clock=clock)
        self.until(f"{service.name} listens", lambda: self.serving(service), service)

    # All of it.

    def open(self) -> None:
        """Make the realm and start everything, in the order of operations.md."""
        self.say("make the realm: a store with TLS and an ACL file, PostgreSQL, two mints behind nginx, four services")
        self.write_users()
        self.start_store()
        self.load_functions()
        words = ("init", str(self.realms[0]), "--name", REALM, "--issuer", self.issuer)
        words += ("--listen", f"127.0.0.1:{self._ports[2]}")
        self.arx(*words, "--store", self.store_url("mint"), "--database", self.database)
        listed = [", ".join(f'"http://127.0.0.1:{port}"' for port in self._ports[at : at + 2]) for at in (4, 6)]
        policy = POLICY.format(orders=listed[0], payments=listed[1])
        (self.realms[0] / "policy.toml").write_text(policy)
        self.copy_realm(self.realms[1])
        self.mints = [self._mint(0), self._mint(1)]
        for mint in self.mints:
            mint.start()  # both at once, as supervisors do
        self.nginx.start()
        for place in range(2):
            self.until("both mints are ready", lambda place=place: self.ready(place), self.mints[place])
        self.until("nginx answers", lambda: self._answers(self.issuer + "/readyz"), self.nginx)
        with ThreadPoolExecutor() as pool:
            self.services = list(pool.map(self._service, *zip(*SERVICES, strict=True), self._ports[4:]))
        for service in self.services:
            service.start()
        for service in self.services:
            self.until(f"{service.name} listens", lambda service=service: self.serving(service), service)

    def close(self) -> None:
        """End everything."""
        for process in (*self.services, self.nginx, *self.mints, self.redis):
            process.kill()

    def arx(self, *words: str, password: str = "", ends: Sequence[int] = (0,)) -> str:
        """Run ``arx`` and return what it wrote.

        Raises:
            AssertionError: It ended with another code than those.
        """
        environment = dict(self._environment)
        if password or "mint" in self.passwords:
            environment["ARX_STORE_PASSWORD"] = password or self.passwords["mint"]
        command = [sys.executable, "-m", "arx_caps.cli", *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode in ends, f"arx {' '.join(words)}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def ask(self, *words: str, ends: Sequence[int] = (0,)) -> Any:
        """Run ``arx`` with ``--json`` and return its answer."""
        return json.loads(self.arx(*words, "--json", ends=ends))

    def until(self, what: str, holds: Callable[[], object], process: Process | None = None) -> None:
        """Wait until something holds.

        Raises:
            AssertionError: It did not within a minute.
        """
        deadline = time.monotonic() + READY_S
        while not holds():
            words = "" if process is None else f"\n{process.name}: {process.last_words()}"
            assert time.monotonic() < deadline, f"not within {READY_S:g} s: {what}{words}"
            time.sleep(0.05)


@contextlib.contextmanager
def opened(site: Site) -> Iterator[Site]:
    """Open a site, and end all of it."""
    try:
        site.open()
        yield site
    finally:
        site.close()
