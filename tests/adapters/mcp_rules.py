# SPDX-License-Identifier: Apache-2.0
"""What a caller of the tests' MCP servers may do, and how a server runs over stdio with a realm of its own.

The process writes a caller's token into a folder, and kills the agent at a signal.
"""

import os
import signal
from collections.abc import Callable
from pathlib import Path

from arx_verifier import Constraint, Rule, Verifier
from arx_verifier.testing import UnsafeTestRealm

RULES = (
    Rule(tool="orders.get", args={"order_id": "o-1"}),
    Rule(tool="orders.refund", args={"order_id": "o-1", "amount": Constraint(max=20)}),
    Rule(tool="orders.whoami"),
    Rule(tool="orders.wait.*"),
    Rule(tool="orders.find", args={"note": Constraint(glob="*")}),
    Rule(tool="orders.resources.read", args={"uri": Constraint(one_of=("orders://terms", "orders://o-1"))}),
    Rule(tool="orders.prompts.get", args={"name": "brief"}, open=True),
)


def serve_stdio(folder: Path, run: Callable[[Verifier], None]) -> None:
    """Serve with the verifier of a realm that is this process's own."""
    realm = UnsafeTestRealm("orders")

    def kill(*_: object) -> None:
        realm.epochs.kill("agent:test/agent")

    signal.signal(signal.SIGUSR1, kill)
    text = realm.caller(*RULES).macaroon.encode()
    (folder / "token.new").write_text(f"{os.getpid()} {text}", "ascii")
    (folder / "token.new").rename(folder / "token")
    run(realm.verifier)
