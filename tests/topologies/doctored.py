# SPDX-License-Identifier: Apache-2.0
"""A realm with a server of its own, and what ``arx doctor`` finds wrong with it."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from arx_caps.cli import exit_codes
from arx_caps.mint.runtime import MintRuntime
from arx_caps.mint.server.init_realm import init_realm
from arx_caps.revocation import acl
from arx_caps.settings.realm import Realm
from tests.cli.helpers import Ran, arx
from tests.servers import free_ports
from tests.topologies.fleet import LASTING, Server, running

SESSION, OTHER, AGENT, BY = "session:s-" + "a" * 16, "session:s-" + "b" * 16, "agent:acme/support", "operator:ada"


class Place(NamedTuple):
    """A realm with a server of its own and a mint that has looked at it."""

    server: Server
    realm: Realm

    def bad(self, url: str | None = None, password: str = "m" * 9) -> dict[str, tuple[str, str]]:
        """Name what the doctor finds wrong, with what it says, leaving out that the mint is not served."""
        ran = self.doctor(url, password)
        found = {
            c["name"]: (c["found"], c["mend"]) for c in ran.json["checks"] if c["ok"] is False and c["name"] != "mint"
        }
        assert ran.exit_code == exit_codes.DENIED
        assert all(mend for _, mend in found.values()), "it says how to mend each"
        return found

    def doctor(self, url: str | None = None, password: str = "m" * 9) -> Ran:
        """Run it, as the mint's user; at another URL, as its default user."""
        words: list[str | Path] = ["doctor", "--realm-dir", self.realm.folder, "--json"]
        return arx(*words, *(("--store", url) if url else ()), env={} if url else {"ARX_STORE_PASSWORD": password})

    @contextlib.contextmanager
    def setting(self, name: str, value: str) -> Iterator[None]:
        with self.server.client() as raw:
            before = raw.config_get(name)[name]
            raw.config_set(name, value)
            yield
            raw.config_set(name, before)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("doctor")
    server = Server(folder / "server", free_ports(1)[0], *LASTING)
    with running(server):
        with server.client() as raw:
            raw.execute_command("ACL", "SETUSER", acl.user_name("mint", "acme"), *acl.rules("mint", "acme", "m" * 9))
        url = f"redis://{acl.user_name('mint', 'acme')}@127.0.0.1:{server.port}"
        with pytest.MonkeyPatch.context() as patch:
            admin = f"redis://127.0.0.1:{server.port}"
            realm = init_realm(folder / "realm", name="acme", issuer="http://127.0.0.1:9", store=url)
            assert arx("redis", "load", "--store", admin, "--realm", "acme").exit_code == 0
            patch.setenv("ARX_STORE_PASSWORD", "m" * 9)
            mint = MintRuntime.open(realm, store_url=url)
            mint.start()
            mint.revoker.end("kill", [SESSION, AGENT], reason="test", by=BY, wait=False)
            mint.close()  # awake, it would mend what the tests break
        yield Place(server, realm)
