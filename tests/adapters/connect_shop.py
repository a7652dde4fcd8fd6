# SPDX-License-Identifier: Apache-2.0
"""A guarded server that runs, and the file of a task for it, for the tests of ``arx connect`` with stock clients."""

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from arx_caps.agent import Bundle, Task
from arx_verifier import Rule
from arx_verifier.testing import UnsafeTestRealm
from arx_verifier.token.holder import HolderKey
from tests.adapters.asgi_server import serving

TOOLS: Final = ["get", "refund", "find", "whoami", "wait.long"]  # what `mcp_rules` allow of `mcp_tools`
# A guarded server, and unguarded ones behind the gateway, which it reaches over HTTP or starts over stdio.
BEHIND: Final = ("guarded", "gateway_server", "gateway_stdio_server")


def app_maker(behind: str, guarded: Any) -> Any:
    """Return what makes the application of one of ``BEHIND``.

    Args:
        behind: Which one.
        guarded: Makes that of the framework's guarded server.
    """
    return guarded if behind == "guarded" else importlib.import_module(f"tests.adapters.{behind}").make_app


class Shop(NamedTuple):
    """A guarded server that runs; ``ran`` gets the name of each tool that does."""

    realm: UnsafeTestRealm
    url: str
    bundle: Path
    ran: list[str]

    def words(self, *options: str) -> list[str]:
        """The words after ``python`` that start the bridge."""
        return ["-m", "arx_caps.cli", "connect", "--task", str(self.bundle), *options, self.url]


@contextlib.contextmanager
def open_shop(folder: Path, make_app: Any, *rules: Rule, key: HolderKey | None = None) -> Iterator[Shop]:
    """Serve an application, and write a task of these rules.

    Args:
        folder: Where the file of the task is.
        make_app: Makes the application from a verifier and the list of what ran.
        rules: What the task allows.
        key: The key that the task is bound to; None for a bearer task.
    """
    realm, ran, bundle = UnsafeTestRealm("orders"), list[str](), folder / "task.bundle"
    with serving(make_app(realm.verifier, ran)) as port:
        origins, tokens = {"orders": (f"http://127.0.0.1:{port}",)}, {"orders": realm.caller(*rules, key=key).macaroon}
        about: dict[str, Any] = {"agent": "test/agent", "issuer": "http://127.0.0.1:9", "realm": "test"}
        Task(Bundle(**about, origins=origins, task="t-test", tokens=tokens)).save(bundle)
        yield Shop(realm, f"http://127.0.0.1:{port}/mcp", bundle, ran)
