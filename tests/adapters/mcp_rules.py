# SPDX-License-Identifier: Apache-2.0
"""What a caller of the tests' MCP servers may do, and how a server runs over stdio.

With a folder the process has a realm of its own: it writes a caller's token there, and kills the agent at a signal.
With a service file it is a service of a mint, and writes all that any library logs beside that file.
"""

import contextlib
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path

from arx_verifier import Constraint, Rule, Verifier, open_verifier
from arx_verifier.testing import UnsafeTestRealm

RULES = (
    Rule(tool="orders.get", args={"order_id": "o-1"}),
    Rule(tool="orders.refund", args={"order_id": "o-1", "amount": Constraint(max=20)}),
    Rule(tool="orders.whoami"),
    Rule(tool="orders.wait.*"),
    Rule(tool="orders.find", args={"note": Constraint(glob="*")}),
    Rule(tool="orders.resources.read", args={"uri": Constraint(one_of=("orders://terms", "orders://o-1"))}),
    Rule(tool="orders.prompts.get", args={"name": "brief"}, open=True),
    Rule(tool="orders.subscriptions.listen", open=True),
)


def hear_all() -> None:
    """Let the root logger have what the loggers of libraries keep for themselves."""
    for name in tuple(logging.root.manager.loggerDict):
        logger = logging.getLogger(name)
        logger.propagate, logger.level = True, logging.NOTSET


def serve_stdio(place: Path, run: Callable[[Verifier], None]) -> None:
    """Serve with the verifier of a service file, or in a folder with one of a realm that is this process's own."""
    if place.is_file():
        logging.basicConfig(filename=place.with_suffix(".log"), level=logging.NOTSET)
        hear_all()
        with contextlib.closing(open_verifier(place)) as verifier:
            run(verifier)
        return
    realm = UnsafeTestRealm("orders")

    def kill(*_: object) -> None:
        realm.epochs.kill("agent:test/agent")

    signal.signal(signal.SIGUSR1, kill)
    text = realm.caller(*RULES).macaroon.encode()
    (place / "token.new").write_text(f"{os.getpid()} {text}", "ascii")
    (place / "token.new").rename(place / "token")
    run(realm.verifier)
