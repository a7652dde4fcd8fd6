# SPDX-License-Identifier: Apache-2.0
"""``realm.toml``: a realm, or the mistakes with their lines."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

from arx_caps.settings.realm import Realm
from arx_verifier.errors import SettingsError

MAX_BYTES = 8_192
REALM = """\
name = "acme"
issuer = "https://mint.acme.example"
listen = "127.0.0.1:8700"
max_ttl = "12h"
store = "rediss+sentinel://store.acme.internal:26379/arx"
replicas = 2
on_failover = "rotate"
witnesses = ["https://witness.example witness.example+1+AAAA"]
agent_rate = 100
proxies = ["10.0.0.0/8"]
login_issuer = "https://login.acme.example"
login_client_id = "mint"
console_idle = "15m"
clients_agent = "acme/apps"
clients_scopes = ["lookup"]
"""


def check(data: bytes) -> None:
    """Open a realm; what is accepted is accepted again, as the settings that it writes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "realm.toml"
        file.write_bytes(data)
        try:
            realm = Realm.open(folder)
        except SettingsError as error:
            wrong = [error, *getattr(error, "further", ())]
        else:
            wrong = []
        # Each mistake names the file, and they are in its order.
        assert all(str(mistake).startswith(str(file)) for mistake in wrong)
        lines = [getattr(mistake, "line", 0) for mistake in wrong]
        assert lines == sorted(lines)
        if wrong:
            return
        file.write_text(realm.settings(), "utf-8")
        assert Realm.open(folder).issuer == realm.issuer


def seeds() -> Iterator[bytes]:
    """Return a realm whole, and without each of its lines."""
    yield REALM.encode()
    lines = REALM.splitlines(keepends=True)
    for at in range(len(lines)):
        yield "".join([*lines[:at], *lines[at + 1 :]]).encode()
