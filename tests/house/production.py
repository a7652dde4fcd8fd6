# SPDX-License-Identifier: Apache-2.0
"""The production set-up of docs/operations.md, typed from the page from its first line to its last.

It takes a Redis with TLS and nginx, which `.ci/run` installs, and no part of `make test`: ``make operations`` runs it.
The hosts that the page names are ports of this machine.  PostgreSQL is the wheel's, which has no TLS.
"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from arx_caps.settings.realm import Realm
from tests.house.pages import ROOT, blocks
from tests.house.reader import environment
from tests.postgres import Postgres
from tests.servers import free_ports, until
from tests.topologies.authority import Ca

PAGE = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
SECTION = PAGE.partition("\n## A production set-up\n")[2].partition("\n## ")[0]
DEADLINE_S = 300.0
SOUND = "set -eu -o pipefail\n"


class Host:
    """One machine in the place of all hosts of the page.

    Args:
        folder: Where everything is typed.
        postgres: The database's server.
    """

    def __init__(self, folder: Path, postgres: Postgres) -> None:
        self.folder, self._postgres = folder, postgres
        store, proxy, first, second, service = map(str, free_ports(5))
        self._instead = {
            "redis-cli -h redis.example": f"redis-cli -h 127.0.0.1 -p {store}",
            "@redis.example/0": f"@127.0.0.1:{store}/0",
            "tls-port 6379": f"tls-port {store}\nbind 127.0.0.1",
            "mint-1.example:8700": f"127.0.0.1:{first}",
            "mint-2.example:8700": f"127.0.0.1:{second}",
            "listen 443 ssl": f"listen 127.0.0.1:{proxy} ssl",
            "https://mint.example": f"https://127.0.0.1:{proxy}",
            "--behind-tls &\n": f"--behind-tls --port {first} &\n",
            "--behind-tls --realm-dir mint-2 &": f"--behind-tls --realm-dir mint-2 --port {second} &",
            "9001": service,
            "10.0.0.0/24": "127.0.0.0/8",
            "postgresql://arx@db.example/arx?sslmode=verify-full": f"postgresql://arx@/arx?host={postgres.host}",
        }
        shutil.copy(ROOT / "arx_caps" / "demo" / "service.py", folder)
        for name in ("redis.example", "mint.example"):
            self._certify(name)

    def _certify(self, name: str) -> None:
        """Write a certificate and its key under the page's name of a host."""
        ca = Ca.make(self.folder / "authority") if not (self.folder / "ca.pem").exists() else self._ca
        self._ca = ca
        shutil.copy(ca.folder / "ca.pem", self.folder / "ca.pem")
        certificate, key = ca.issue("127.0.0.1")
        shutil.copy(certificate, self.folder / f"{name}.pem")
        shutil.copy(key, self.folder / f"{name}.key")

    def here(self, text: str) -> str:
        """Put this machine's addresses for those of the page."""
        for shown, own in self._instead.items():
            text = text.replace(shown, own)
        return text

    def script(self) -> str:
        """Write the page's files, make its database, and return all that it types."""
        typed = []
        for block in blocks(SECTION):
            named = re.match(r"# (\S+\.\w+)\n", block.text)
            if block.language == "sql":
                self._sql(block.text)
            elif named is not None:
                (self.folder / named[1]).write_text(self.here(block.text))
            else:
                assert block.language == "sh", block
                # The services of the policy are at the page's ports.
                typed.append(self.here(block.text).replace("\nmkdir mint-2\n", f"\n{self._policy()}\nmkdir mint-2\n"))
        # On a loaded machine a verifier may confirm a kill later than its lease ends: exit code 3.
        return SOUND + re.sub(
            r"^arx kill .*", r"until \g<0>; do test $? = 3; done", "\n".join(typed), flags=re.MULTILINE
        )

    def _policy(self) -> str:
        return f"sed -i s/9001/{self._instead['9001']}/ .arx/policy.toml"

    def _sql(self, text: str) -> None:
        with psycopg.connect(host=self._postgres.host, user="postgres", dbname="postgres", autocommit=True) as admin:
            for statement in text.split(";"):
                if statement.strip():
                    admin.execute(statement.encode())

    def type_all(self) -> str:
        """Type it all into one shell, end everything that it has started, and return what it wrote."""
        log = self.folder / "typed.log"
        with log.open("w") as output:
            shell = subprocess.Popen(
                ["bash", "-c", self.script()],
                cwd=self.folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=environment(),
                start_new_session=True,
            )
            try:
                code = shell.wait(DEADLINE_S)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                _end_all_of(shell)
        written = log.read_text()
        assert code == 0, f"exit code {code}\n{written}"
        return written


def _end_all_of(shell: subprocess.Popen[bytes]) -> None:
    """End a shell and all that it started, and wait until nothing of it is left."""
    os.killpg(shell.pid, signal.SIGTERM)
    shell.wait()
    with contextlib.suppress(ProcessLookupError):
        until(lambda: os.killpg(shell.pid, 0), DEADLINE_S)


@pytest.fixture
def host(tmp_path: Path, postgres: Postgres) -> Iterator[Host]:
    """A machine with everything that the page asks for, and none of it done yet."""
    for name in ("redis-server", "redis-cli", "nginx", "curl"):
        assert shutil.which(name, path=environment()["PATH"]), f"{name} is not installed"
    yield Host(tmp_path, postgres)
    postgres.drop(postgres.url("arx"))


@pytest.mark.servers
@pytest.mark.timeout(DEADLINE_S + 60)
def test_the_set_up_is_typed_from_the_page(host: Host) -> None:
    """Every file is written, every line typed; the doctor finds nothing wrong, and the agent's call is answered."""
    written = host.type_all()
    assert "BAD" not in written
    assert "unknown" not in written, written
    assert "'id': 'o-1001'" in written, written
    assert "refused, as it must be" in written, written
    assert re.search(r"agent:acme/support/triage: confirmed: \d+ of \d+ verifiers", written), written
    realm = Realm.open(host.folder / ".arx")
    assert realm.ca == str(host.folder / "ca.pem")
