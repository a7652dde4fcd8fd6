# SPDX-License-Identifier: Apache-2.0
"""An operator who followed docs/store.md stopped the store, with an ACL file of what ``arx redis acl`` prints.

The command is ``ACL SETUSER NAME …``; a file wants ``user NAME …``, and a server does not start with anything else.
"""

from pathlib import Path

import pytest

from arx_caps.revocation import acl
from arx_caps.revocation.store import RevocationStore
from tests.cli.helpers import arx
from tests.servers import free_ports
from tests.topologies.fleet import LASTING, NAMES, Server, need, running

pytestmark = pytest.mark.servers


@pytest.mark.parametrize("name", NAMES)
def test_a_server_takes_the_printed_lines_as_its_acl_file(tmp_path: Path, name: str) -> None:
    """Users out of the file alone can each do their work: load, begin, kill, look."""
    binary, port = need(name), free_ports(1)[0]
    lines = ["user default off"]
    for role in acl.ROLES:
        (tmp_path / role).write_text(role * 3)
        words = ("redis", "acl", "--role", role, "--realm", "acme", "--password-file", tmp_path / role, "--file")
        lines.append(arx(*words, "--store", f"redis://127.0.0.1:{port}/0").out.strip())
    (tmp_path / "users.acl").write_text("\n".join(lines) + "\n")
    users = ("--aclfile", str(tmp_path / "users.acl"))
    login = {"username": acl.user_name("admin", "acme"), "password": "admin" * 3}
    server = Server(tmp_path / name, port, *LASTING, *users, binary=binary, login=login)
    with running(server):
        stores = {role: store_of(port, role) for role in acl.ROLES}
        assert not stores["mint"].load_functions()
        assert stores["admin"].load_functions()
        stores["mint"].init()
        assert stores["operator"].kill(["session:s-aaaaaaaaaaaaaaaa"], "test", "operator:ada").durable
        assert stores["verifier"].header().seq == 1
        for store in stores.values():
            store.close()


def store_of(port: int, role: str) -> RevocationStore:
    url = f"redis://{acl.user_name(role, 'acme')}@127.0.0.1:{port}/0"
    return RevocationStore(url, "acme", password=role * 3)
