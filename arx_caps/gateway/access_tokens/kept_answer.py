# SPDX-License-Identifier: Apache-2.0
"""An answer of the mint that the gateway keeps for a time, so that strangers cannot make it ask."""

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any, Final

from arx_caps.agent.sessions.mint_client import MintClient
from arx_caps.service.own_key import ServiceIdentity
from arx_verifier.errors import StoreError

_LOOK_S: Final = 1.0  # between two requests that the mint does not answer


class KeptAnswer:
    """The JSON of one route.

    Args:
        mint: The mint.
        own: The service with its own key, which signs the proof of the request.
        path: The route.
        kept_s: How long an answer is kept, s.
        read: Returns what of its JSON is kept.
    """

    def __init__(
        self,
        mint: MintClient,
        own: ServiceIdentity,
        path: str,
        kept_s: float,
        read: Callable[[Any], Any] = lambda answer: answer,
    ) -> None:
        self._mint, self._key, self._path, self._kept_s, self._read = mint, own.key, path, kept_s, read
        self._looking = asyncio.Lock()
        self._answer: Any = None
        self._kept_at, self._failed_at = -math.inf, -math.inf

    async def get(self, kept_s: float | None = None) -> Any:
        """Return the answer.

        Args:
            kept_s: How old it may be, s; None for as long as it is kept.

        Raises:
            ArxError: The mint does not answer.
        """
        longest_s = self._kept_s if kept_s is None else kept_s
        # Before the lock too: while one waits for the mint, others go on with what is kept.
        if time.monotonic() - self._kept_at < longest_s:
            return self._answer
        async with self._looking:
            if time.monotonic() - self._kept_at < longest_s:
                return self._answer
            if time.monotonic() - self._failed_at < _LOOK_S:
                raise StoreError("the mint did not answer a moment ago")
            try:
                found = await asyncio.to_thread(self._mint.call, "GET", self._path, key=self._key, repeats=False)
                self._answer, self._kept_at = self._read(found), time.monotonic()
            except BaseException:
                # At its end: those who waited for a slow mint must not ask it one after the other.
                self._failed_at = time.monotonic()
                raise
            return self._answer
