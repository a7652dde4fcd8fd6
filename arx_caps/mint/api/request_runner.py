# SPDX-License-Identifier: Apache-2.0
"""Run one request of the mint: admit it, read its body within a bound, answer it in a thread.  CONTROL 1, 4.5.

A subclass has what differs between the API, the forms of OAuth, and the pages: above all the form of a refusal.
"""

import asyncio
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar, Final, TypeVar

from starlette.requests import Request
from starlette.responses import Response

from arx_caps.database.commit_watch import URGENT
from arx_caps.mint.api.access_log import note
from arx_caps.mint.api.browser import peer_of
from arx_caps.mint.context import MintContext
from arx_verifier.enforcement import bounded_body
from arx_verifier.errors import ArxError, RequestError

# Requests block on database and store.  All mints of a process share the threads, which bound the requests at work at
# once.  Forms and pages have others than the API: strangers send them, and they must not take those of its callers.
THREADS: Final = ThreadPoolExecutor(40, "arx-mint-call")
FORM_THREADS: Final = ThreadPoolExecutor(40, "arx-mint-form")
# SQLite has one writer, and no round trips in which other calls could compute: with more threads than one that computes
# and one that waits for the disk, they only take the interpreter from each other, which costs a quarter of the time.
SQLITE_THREADS: Final = ThreadPoolExecutor(2, "arx-mint-call-sqlite")
# Kills and freezes, with what an operator needs to make one: calls that wait for a database must not keep one waiting.
URGENT_THREADS: Final = ThreadPoolExecutor(32, URGENT)
_Result = TypeVar("_Result")


def in_thread(threads: ThreadPoolExecutor, work: Callable[..., _Result], *args: Any) -> asyncio.Future[_Result]:
    """Run work in one of some threads, and return its future result."""
    # Every request comes through here, and Starlette's ``run_in_threadpool`` takes a third longer.
    return asyncio.get_running_loop().run_in_executor(threads, work, *args)


def media_type_of(request: Request) -> str:
    """Return the media type of a request's body, without parameters; empty if the request names none."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


class RequestRunner:
    """One request.

    Attributes:
        mint: The mint.
        request: The request.
        limit: The longest body, bytes.
        body: What a refusal calls the body.
        unread: Further headers of a refusal that is made before the body is read.
        threads: The threads that answer.

    Args:
        mint: The mint.
        request: The request, its body unread.
    """

    limit: int = 16 * 1024
    body: ClassVar[str] = "form"
    unread: ClassVar[Mapping[str, str]] = {}
    threads: ThreadPoolExecutor = FORM_THREADS

    def __init__(self, mint: MintContext, request: Request) -> None:
        self.mint, self.request = mint, request

    @property
    def peer(self) -> str | None:
        """The caller's address."""
        return peer_of(self.mint, self.request)

    async def admit(self) -> None:
        """Require what must hold before the body is read, at least that the address is below its limit.

        Raises:
            ArxError: The refusal.
        """
        raise NotImplementedError

    def respond(self, raw: bytes) -> Response:
        """Return the answer, in a thread.

        Args:
            raw: The body.

        Raises:
            ArxError: The refusal.
        """
        raise NotImplementedError

    def refuse(self, error: ArxError) -> Response:
        """Return a refusal in the form of this kind of request."""
        raise NotImplementedError

    def charge(self, error: ArxError) -> None:
        """Charge the caller's address for a request that was admitted and then refused, if it is not authenticated."""

    async def run(self) -> Response:
        """Return the answer or a refusal."""
        try:
            await self.admit()
        except ArxError as error:
            return self._leave_unread(self.refuse(error))
        try:
            raw = await bounded_body.receive_body(self.request.receive, self.limit)
        except bounded_body.BodyTooLongError:
            text = f"{self.body} too large: expected at most {self.limit} bytes"
            return self._leave_unread(self._charge_and_refuse(RequestError(text, code="too_large")))
        except bounded_body.ClientGoneError:
            # Not a failure of the mint: clients must not be able to write errors to its log.
            note(self.request, code=RequestError.code)
            return Response(status_code=RequestError.status_hint)
        return await self.dispatch(bytes(raw))

    async def dispatch(self, raw: bytes) -> Response:
        """Answer in one of the threads, or refuse."""
        return await in_thread(self.threads, self.finish, raw)

    def finish(self, raw: bytes) -> Response:
        """Return the answer, or charge and refuse."""
        try:
            return self.respond(raw)
        except ArxError as error:
            return self._charge_and_refuse(error)

    def _charge_and_refuse(self, error: ArxError) -> Response:
        self.charge(error)
        return self.refuse(error)

    def _leave_unread(self, refused: Response) -> Response:
        refused.headers.update(self.unread)
        return refused
