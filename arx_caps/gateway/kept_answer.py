# SPDX-License-Identifier: Apache-2.0
"""An answer of the mint that the gateway keeps for a time, so that strangers cannot make it ask."""

import asyncio
import time
from typing import Any, Final

from arx_caps.agent.mint_client import MintClient
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
    """

    def __init__(self, mint: MintClient, own: ServiceIdentity, path: str, kept_s: float) -> None:
        self._mint, self._key, self._path, self._kept_s = mint, own.key, path, kept_s
        self._looking = asyncio.Lock()
        self._answer: Any = None
        self._kept_at, self._asked_at = -kept_s, -_LOOK_S

    async def get(self) -> Any:
        """Return the answer.

        Raises:
            ArxError: The mint does not answer.
        """
        async with self._looking:
            now = time.monotonic()
            if now - self._kept_at < self._kept_s:
                return self._answer
            if now - self._asked_at < _LOOK_S:
                raise StoreError("the mint did not answer a moment ago")
            self._asked_at = now
            self._answer = await asyncio.to_thread(self._mint.call, "GET", self._path, key=self._key, repeats=False)
            self._kept_at = now
            return self._answer
