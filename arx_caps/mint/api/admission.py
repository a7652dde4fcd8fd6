# SPDX-License-Identifier: Apache-2.0
"""Which requests of an address over its limit are answered: those whose caller the mint knows.  CONTROL 4.5.

An address may be that of a whole office: a stranger behind it must not lock out its operators and services.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

from starlette.requests import Request

from arx_caps.database.commit_watch import URGENT
from arx_caps.mint.api.browser import peer_of
from arx_caps.mint.context import HasLimits
from arx_caps.mint.rate_limit import TooOftenError
from arx_verifier.errors import ArxError

_KNOWN: Final = "arx.known"
_REPLAYED: Final = "replayed"
_Result = TypeVar("_Result")


class WorkQueue:
    """A queue of its own for the work that strangers can cause, so that it never takes the threads of other calls.

    Args:
        threads: How much of it is done at once.
        waiting: How much of it may wait.
    """

    def __init__(self, name: str, threads: int, waiting: int) -> None:
        self._threads, self._most, self._inside = ThreadPoolExecutor(threads, name), threads + waiting, 0

    async def run(self, refusal: TooOftenError, work: Callable[..., _Result], *args: Any) -> _Result:
        """Return what the work returns.

        Raises:
            TooOftenError: The refusal that is given: too much work waits.
        """
        if self._inside >= self._most:
            raise refusal
        self._inside += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *args)
        finally:
            self._inside -= 1


# To verify a proof and to find its key takes less than a millisecond, so that a full line is served within a second.
_PROOFS: Final = WorkQueue(f"{URGENT}-proof", 2, 256)  # urgent, as one of the callers may want to kill


async def require_admitted(mint: HasLimits, request: Request, find_caller: Callable[[], str | None] | None) -> None:
    """Require that a request may be answered: its address is below the limit, or the mint knows its caller.

    Args:
        mint: The mint.
        request: The request.
        find_caller: Returns the name of the caller's key or sign-in; None for a request without a credential.

    Raises:
        TooOftenError: The address is over its limit, and the mint does not know the caller.
        StoreError: The database did not answer.
    """
    try:
        mint.limits.require_address(peer_of(mint, request))
    except TooOftenError as refusal:
        caller = await _PROOFS.run(refusal, find_caller) if find_caller is not None else None
        if caller is None:
            raise
        mint.limits.require_caller(caller)
        request.scope[_KNOWN] = caller


def count_unproven(mint: HasLimits, request: Request, error: ArxError | None = None) -> None:
    """Charge an unauthenticated call to its address, or to the caller for whom the address's limit did not count.

    Args:
        mint: The mint.
        request: The request.
        error: Its refusal, where it has one.
    """
    caller = request.scope.get(_KNOWN)
    if caller is None:
        mint.limits.count_unproven(peer_of(mint, request))
    elif error is None or error.code != _REPLAYED:  # a replay is another party's, and must not lock the caller out
        mint.limits.count_caller(caller)
