# SPDX-License-Identifier: Apache-2.0
"""Clients of a realm's ledger, for tests that run in the environment of an adapter as well."""

from typing import Any

from arx_verifier.clock import now_ms
from arx_verifier.ledger.pools import NEW
from arx_verifier.ledger.redis_ledger import RedisLedger, secret_of
from arx_verifier.revocation.store_steps import run


def new_ledger(
    url: str, realm: str, timeout_s: float = 30, password: str | None = None, *, hides: bool = False
) -> RedisLedger:
    """A client of a realm's first ledger, as a new mint is: what was opened before it began was drawn on nowhere."""
    ledger = RedisLedger(url, realm, timeout_s=timeout_s, password=password, hides=hides)
    ledger.recall(lambda _: NEW, lambda _, beginning: beginning)
    return ledger


def only_bucket(ledger: RedisLedger) -> Any:
    """What a ledger at one server keeps of it."""
    return ledger._buckets[""]


def look(ledger: RedisLedger) -> Any:
    """Ask a ledger at one server for its time, ``since`` and ``whole``."""
    return run(ledger._call("arx2_ledger", only_bucket(ledger), (), ()))


def begin(ledger: RedisLedger) -> int:
    """Begin a ledger; return a time after that at which a session may be opened, ms since the Unix epoch."""
    ledger.start()
    since: int = look(ledger)[1]
    while now_ms() <= since:
        pass  # a session of the same millisecond counts as lost
    return since + 1


def header_of(server: Any, realm: str = "acme") -> str:
    """The key of a ledger's header at one server, given a client of it."""
    begin = f"arx:budget:{{{realm}}}:"
    return f"{begin}{secret_of(server, f'{begin}h')}h"
