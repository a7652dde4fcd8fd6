# SPDX-License-Identifier: Apache-2.0
"""``gateway.toml``: settings, or the mistakes with their lines."""

import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

from arx_caps.gateway.base.settings import read_settings
from arx_verifier.errors import SettingsError

MAX_BYTES = 8_192
GATEWAY = """\
[gateway]
listen = ["127.0.0.1:8090"]
origins = ["https://chat.example"]
[upstream.orders]
audience = "orders"
url = "https://orders.example/mcp"
timeout = "20s"
credential = { from = "env:KEY", prefix = "Bearer " }
rate = { agent = "60/1m", open = 8 }
[upstream.files]
audience = "files"
command = ["python", "-m", "files"]
env = { TOKEN = "file:token" }
[decider.shop]
kind = "forward-auth"
listen = "127.0.0.1:8092"
audience = "shop"
routes = { "GET /orders/{order_id}" = "orders.get" }
[decider.pdp]
kind = "authzen"
listen = "127.0.0.1:8093"
audience = "desk"
url = "https://pdp.example"
peps = { pep = "env:PEP" }
actions = { "read order" = { tool = "desk.get", args = { order = "resource.id" } } }
"""


def check(data: bytes) -> None:
    """Read settings; what is accepted is accepted again, and equal."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "gateway.toml"
        file.write_bytes(data)
        try:
            settings = read_settings(file)
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
        assert read_settings(file) == settings


def seeds() -> Iterator[bytes]:
    """Return the settings whole, and each of their tables."""
    yield GATEWAY.encode()
    for table in re.split(r"\n(?=\[)", GATEWAY):
        yield table.encode()
