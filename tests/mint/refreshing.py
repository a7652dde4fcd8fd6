# SPDX-License-Identifier: Apache-2.0
"""A mint whose callers need one person's token, and which is killed at a step: ``python -m tests.mint.refreshing``.

Reads an order a line, and for each forks a process that opens the realm's mint, writes its number, and waits for a
line.  Then many callers ask for the token at once.  The process kills itself (SIGKILL) before the n-th step of its
refresh: the request to the issuer, what follows the answer, each statement that writes, its commit.  With a step it
waits for another line once it has the lock.  Writes what the callers got, or the signal that ended it.
"""

import json
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from hashlib import sha256
from threading import get_ident as own_thread
from typing import Any, Final

import msgspec
from sqlalchemy import event
from sqlalchemy.engine import Engine

from arx_caps.mint.connections import lend
from arx_caps.mint.connections.account_issuer import AccountIssuer, RefreshRefusedError, issuer_of
from arx_caps.mint.context import MINT, MintContext
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.oauth.connections import ConnectionRepository
from arx_caps.settings.connections import ConnectionTerms
from arx_caps.settings.realm import Realm
from arx_verifier.errors import UnavailableError
from tests.mint.harness import local_mint

CALLERS: Final = 16
WRITES: Final = ("INSERT", "UPDATE", "DELETE")
LEFT = 0
FIRST: list[int] = []  # the thread that was the first to get the lock, while it refreshes


def step(*_: Any) -> None:
    """One more step, if this thread refreshes."""
    global LEFT
    if own_thread() in FIRST:
        LEFT -= 1
        if LEFT == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def watch() -> None:
    """Have every step of a refresh counted."""
    lock, refresh = ConnectionRepository.lock, AccountIssuer.refresh

    def locked(self: ConnectionRepository, *args: Any) -> bool:
        is_locked = lock(self, *args)
        if is_locked and LEFT and not FIRST:
            FIRST.append(own_thread())
            say("locked")
            sys.stdin.readline()
            step()
        return is_locked

    def refreshed(self: AccountIssuer, *args: Any) -> Any:
        step()
        found = refresh(self, *args)
        step()
        return found

    ConnectionRepository.lock = locked  # type: ignore[method-assign]
    AccountIssuer.refresh = refreshed  # type: ignore[method-assign]
    event.listen(Engine, "before_cursor_execute", lambda _, __, sql, *___: step() if sql.startswith(WRITES) else None)
    event.listen(Engine, "commit", step)
    # The lock of a mint that died is over sooner than in life, and still later than any answer of this issuer.
    lend.REFRESH_MS, lend.ANSWER_MS = 6_000, 3_000  # type: ignore[misc]


def say(what: Any) -> None:
    """Write a line."""
    print(json.dumps(what), flush=True)


def ask(mint: MintContext, connection: str) -> str:
    """Return the digest of the token that a caller gets, or ``ended``; ask again while others refresh."""
    issuer = issuer_of(mint, "tracker")
    while (row := mint.db.connections.find(connection)) is not None and row.status == "open":
        try:
            found = lend._token_of(mint, issuer, row, "repo.read", "")
        except RefreshRefusedError:
            mint.db.connections.end(connection, "issuer", Event.of("connection.ended", MINT, connection=connection))
            break
        except UnavailableError:
            found = None
        if own_thread() in FIRST:
            FIRST[:] = [0]
        if found is not None:
            return sha256(found.token.encode()).hexdigest()
        time.sleep(0.05)
    return "ended"


def work(order: dict[str, Any]) -> None:
    """Open the mint, and have its callers ask."""
    global LEFT
    realm = Realm.open(order["realm"])
    terms = msgspec.convert(order["terms"], ConnectionTerms)
    mint = local_mint(replace(realm, connection={"tracker": terms}))
    say(os.getpid())
    sys.stdin.readline()
    LEFT = order["step"]
    with ThreadPoolExecutor(CALLERS) as pool:
        say([*pool.map(lambda _: ask(mint, order["connection"]), range(CALLERS))])


def main() -> None:
    """Take orders until there are no more."""
    watch()
    while line := sys.stdin.readline():
        child = os.fork()
        if child == 0:
            try:
                work(json.loads(line))
            finally:
                os._exit(0 if sys.exc_info()[0] is None else 1)
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        if code:
            say(code)


if __name__ == "__main__":
    main()
