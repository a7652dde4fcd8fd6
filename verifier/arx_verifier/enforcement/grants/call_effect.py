# SPDX-License-Identifier: Apache-2.0
"""What an answer shows of the effect of its call, and the one record of that.  SPEC 12.8."""

import time
from hashlib import sha256
from typing import Any, Final, Literal, Self, TypeAlias

from arx_verifier.errors import AuditError, StoreError
from arx_verifier.journal.decision import Decision
from arx_verifier.journal.record import EffectRecord, new_salt
from arx_verifier.verification.verifier import Verifier

MAX_DIGESTED: Final = 1024 * 1024  # of a longer answer there is no digest
_NO_BODY: Final = frozenset((204, 304))  # whatever its Content-Length (RFC 9112 6.3)
_UNSURE: Final = frozenset((502, 504))  # what was called behind the tool may have run

EffectResult: TypeAlias = Literal["done", "failed", "unknown"]


class CallEffect:
    """The effect of one granted call; adapters report its answer, and the end of the call without one.

    Args:
        verifier: Records it.
        decision: The decision that allowed the call, whose effect is awaited.

    Attributes:
        status: The status of the answer in its protocol; 0 without one.
        length: The length that the answer will have, bytes; -1 if it is not known.
        is_seen: Whether its parts are reported.
    """

    def __init__(self, verifier: Verifier, decision: Decision) -> None:
        self._verifier, self._decision, self._begun_ns = verifier, decision, time.monotonic_ns()
        self._salt, self._size, self.status, self.length, self.is_seen = new_salt(), 0, 0, -1, False
        self._digest = sha256(self._salt)
        self._once = [True]

    @classmethod
    def of(cls, verifier: Verifier, decision: Decision) -> Self | None:
        """Return the effect of an allowed call that begins; None if its tool gets no record of it.

        Args:
            verifier: Records it.
            decision: The decision that allowed the call.
        """
        return None if decision.effect is None else cls(verifier, decision)

    @property
    def is_settled(self) -> bool:
        """Whether the record is written, or another thread writes it now."""
        return not self._once

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.settle(_result_of(kind))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self.settle_async(_result_of(kind))

    def begin(self, status: int, method: str, length: Any = None) -> bool:
        """Take the head of the answer, which is about to leave; return whether that is the whole answer.

        Args:
            status: Its status.
            method: The request's method.
            length: The value of ``Content-Length``, if there is one.
        """
        self.status, self.is_seen = status, True
        if method == "HEAD" or status in _NO_BODY:
            self.length = 0
        elif length is not None and length.isdigit():
            self.length = int(length)
        return self.length == 0

    def take(self, part: bytes) -> bool:
        """Take a part of the answer that is about to leave; return whether it is the last one by the answer's length.

        Args:
            part: The part.
        """
        self.is_seen = True
        self._size += len(part)
        if self._size <= MAX_DIGESTED:
            self._digest.update(part)
        return 0 <= self.length <= self._size

    async def settle_async(self, result: EffectResult | None = None) -> None:
        """Write the record as ``settle`` does, without blocking the event loop."""
        grant = self._decision.grant
        if self._once and (self._verifier.decisions.waits or (grant is not None and grant.proves)):
            from asyncio import to_thread  # imported on use: programs without an event loop never need it

            await to_thread(self.settle, result)
        self.settle(result)

    def settle(self, result: EffectResult | None = None) -> None:
        """Write the record, before the last part of the answer leaves; a second call writes nothing.

        Args:
            result: The result; None for what the status says of a whole answer.
        """
        try:
            self._once.pop()  # a kill may end the call in another thread at this moment
        except IndexError:
            return
        is_whole = self.is_seen and result != "unknown"
        if result is None:
            grant = self._decision.grant
            is_done = self.status < 400 and not (grant is not None and grant.has_failed)
            result = "unknown" if self.status in _UNSURE else "done" if is_done else "failed"
        digest = self._digest.digest() if is_whole and 0 < self._size <= MAX_DIGESTED else b""
        took_ms = (time.monotonic_ns() - self._begun_ns) // 1_000_000
        effect = EffectRecord(result, "", self.status, self._size if is_whole else -1, digest, took_ms)
        try:
            self._verifier.record_effect(self._decision, effect, self._salt)
        except (StoreError, AuditError) as error:
            import logging  # imported on use, to keep the start fast

            # The tool has run.  To keep back its answer would make the caller run it again; the log shows `unknown`.
            lacks = "proves no mark" if isinstance(error, StoreError) else "has no record"
            logging.getLogger(__name__).error("the effect of decision %s %s: %s", self._decision.id, lacks, error)


def _result_of(kind: type[BaseException] | None) -> EffectResult:
    """Return the result of a function that has returned, or raised."""
    return "done" if kind is None else "failed" if issubclass(kind, Exception) else "unknown"
