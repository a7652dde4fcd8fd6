# SPDX-License-Identifier: Apache-2.0
"""Ship a journal to the mint: batches of records, signed by the service.  LOG 2.

It runs as a thread of the service, or beside it (``arx ship``); both read the journal's files, and ``lock`` lets one of
them work at a time.  Decisions never wait for it.  ``journal_runs`` reads the journal.
"""

import contextlib
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple, Self

import httpx
import msgspec

from arx_caps.audit.shipping.batch import HEADER, MEDIA_TYPE, PATH, SEEN_HEADER, Batch, Mark, read_mark, sign_batch
from arx_caps.audit.shipping.fork_detection import Seen
from arx_caps.audit.shipping.journal_runs import AT_ONCE, JournalRun, JournalRuns
from arx_caps.audit.shipping.lock import ShipperLock
from arx_caps.credentials.jose import make_dpop
from arx_caps.credentials.keyfile import SigningKey
from arx_caps.http.client import USER_AGENT, no_answer, open_client
from arx_verifier.clock import now_ms
from arx_verifier.errors import ArxError, GrantError, StoreError, shorten
from arx_verifier.journal.quota import ALARMS

PAUSE_S: Final = 0.05  # between two scans of the journal
YIELDING_PAUSE_S: Final = 0.2  # in the process of a service, which has other work
STANDBY_S: Final = 0.5  # until it is tried again whether another process still ships
TAKE_S: Final = 40.0  # longer than an attempt of a process that gives way
ELSEWHERE: Final = "shipped_elsewhere"
FIRST_RETRY_S: Final = 0.1
LAST_RETRY_S: Final = 30.0
UNDER_WAY: Final = 4  # concurrent batches of a run: the shipper reads and signs some while the mint takes others
BURST: Final = 16  # batches of a run before the next run has its turn
TIMEOUT: Final = httpx.Timeout(30.0, connect=5.0)
_NOTHING, _SENT, _FULL = "nothing", "sent", "full"  # results of shipping a run; full: it has more records already
_REFUSED: Final = range(400, 500)

_log = logging.getLogger(__name__)


class ShippingStatus(NamedTuple):
    """The state of shipping.

    Attributes:
        shipped: Records that the mint took since the start.
        lost: Records that were declared lost since the start.
        fill: Used share of the journal's quota, 0.0 to 1.0.
        alarm: 50, 80 or 95 if that percentage of the quota is used, else 0.
        used: Size of the journal, bytes.
        failing_ms: How long shipping has failed, ms; 0 if it works.
        error: Why it fails, or None.
        code: The code of that error: ``store_unavailable`` if the mint did not answer, ``bad_batch`` if it refused,
            ``bad_mark`` if it has records that were never sent from here, ``shipped_elsewhere`` if another process
            ships the journal.
        fork: Why the log contradicts the last checkpoint that this sender verified, or None.
        standby: Whether another process ships the journal now.
    """

    shipped: int
    lost: int
    fill: float
    alarm: int
    used: int
    failing_ms: int
    error: str | None
    code: str | None
    fork: str | None = None
    standby: bool = False


# While the mint does not answer, the journal grows.  A file leaves the folder only when the mint has its records.
class Shipper:
    """Sends one service's records.  As a context manager it starts and closes itself.

    Args:
        folder: The folder of the journal.
        audience: The service.
        realm: The realm's name.
        issuer: The mint's issuer URL.
        key: The service's enrolled key.
        keep_ms: How long a file stays after its records were sent, ms since it was last written.
        at_once: Records in a batch, at most ``batch.MAX_RECORDS``.
        yields: Whether it gives way to a shipper that does not.
        client: The HTTP client; the shipper opens its own when omitted.
        ca: File of a further authority for TLS, for its own client.

    Raises:
        SettingsError: The file of the authority cannot be read.
    """

    def __init__(
        self,
        folder: Path,
        *,
        audience: str,
        realm: str,
        issuer: str,
        key: SigningKey,
        keep_ms: int = 0,
        at_once: int = AT_ONCE,
        yields: bool = False,
        client: httpx.Client | None = None,
        ca: str | None = None,
    ) -> None:
        self._journal, self._key = JournalRuns(folder, audience, at_once), key
        self._lock, self._pause_s = ShipperLock(folder, yields=yields), YIELDING_PAUSE_S if yields else PAUSE_S
        self._standby = False
        self._realm, self._issuer = realm, issuer.rstrip("/")
        self._keep_ms = keep_ms
        self._http = client or open_client(self._issuer, timeout=TIMEOUT, ca=ca)
        self._seen = Seen(folder)
        self._shipped = self._lost = 0
        self._alarm = 0.0
        self._error: str | None = None
        self._code: str | None = None
        self._failing_since: float | None = None
        self._failures: dict[str, int] = {}
        self._retry_at: dict[str, float] = {}
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @property
    def status(self) -> ShippingStatus:
        """The state of shipping."""
        since = self._failing_since
        failing_ms = 0 if since is None else int((time.monotonic() - since) * 1000)
        journal, alarm = self._journal, round(self._alarm * 100)
        counts = (self._shipped, self._lost, journal.fill, alarm, journal.used, failing_ms)
        return ShippingStatus(*counts, self._error, self._code, self._seen.alarm, self._standby)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Ship in a thread of this process, until ``close``."""
        self._thread = threading.Thread(target=self.run, args=(self._stop,), name="arx-ship", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop the thread, send what it had not sent yet, and close the connection for good.

        Records stay in the journal if the mint does not take them.
        """
        self._stop.set()
        # The thread ends before its connection does, or its last batch would look like an outage.
        if self._thread is not None:
            self._thread.join()
            self._thread = None
            self.send_rest()
        self._lock.release()
        self._http.close()

    def run(self, stop: threading.Event, on_status: Callable[[ShippingStatus], object] | None = None) -> None:
        """Ship until ``stop`` is set.

        Args:
            stop: Stops shipping when set.
            on_status: Called with the state after every scan of the journal.
        """
        while not stop.is_set():
            full = False
            try:
                full = _FULL in self._round()
            except OSError as error:  # the journal itself: its disk, its rights
                self._fail("", f"the journal cannot be read: {error.strerror or error}", "journal")
            if on_status is not None:
                on_status(self.status)
            if not full:
                pause_s = STANDBY_S if self._standby else self._pause_s
                stop.wait(max(pause_s, self._retry_at.get("", 0.0) - time.monotonic()))

    def once(self, take_s: float = TAKE_S) -> bool:
        """Ship the journal's present records, with one attempt each.

        Args:
            take_s: How long to wait for a process that ships the journal to give way, seconds.

        Returns:
            Whether the mint has all of them.

        Raises:
            OSError: The journal cannot be read.
        """
        until = time.monotonic() + take_s
        try:
            while (self._round() or self._standby) and self._error is None:
                if self._standby and time.monotonic() >= until:
                    self._fail("", "another process ships this journal", ELSEWHERE)
                elif self._standby:
                    time.sleep(PAUSE_S)
            return self._error is None
        finally:
            self._lock.release()

    def send_rest(self) -> None:
        """Send the records of a program's last moments: nothing may run after it that would send them."""
        with contextlib.suppress(OSError, RuntimeError):  # of an interpreter that ends, and starts no thread any more
            while self._error is None and _FULL in self._round():
                pass

    def _round(self) -> set[str]:
        """Ship a part of each run, and return the results other than ``_NOTHING``."""
        held, journal = self._lock.held, self._journal
        self._standby = not self._lock.take()
        if self._standby:
            self._error = self._code = self._failing_since = None
            return set()
        if not held and not self._lock.resumed:  # another process may have sent records and removed files since
            self._journal = JournalRuns(journal.folder, journal.audience, journal.at_once)
            self._seen = Seen(journal.folder)
        self._journal.look()
        self._warn()
        if self._failures.pop("", None):  # of the journal itself, which can be read again
            self._retry_at.pop("", None)
            self._recover()
        runs, now = tuple(self._journal.runs.values()), time.monotonic()
        # One run that is refused must not hold back the others, so each has its own time to retry.
        sent = {self._one(run) for run in runs if now >= self._retry_at.get(run.boot, 0.0)}
        self._forget()
        return sent - {_NOTHING}

    def _one(self, run: JournalRun) -> str:
        """Ship the next batch of a run, and further full ones concurrently."""
        batch = run.batch()
        if batch is None:
            run.free(self._keep_ms)
            return _NOTHING
        # After a start the mint is asked how far it is: its database, or this journal, may have been restored.
        asked, result, left = run.next is None, _NOTHING, BURST
        under_way = deque([self._start(batch)])
        while under_way:
            while left and len(under_way) < UNDER_WAY and (more := run.following(under_way[-1].batch)) is not None:
                under_way.append(self._start(more))
                left -= 1
            sent = under_way.popleft()
            if not self._settle(run, sent, first=result == _NOTHING, asked=asked):
                break
            result = _FULL if asked or self._is_full(sent.batch) else _SENT
            if run.next != sent.batch.last + 1:
                break
        for sent in under_way:  # a batch before them failed: their answers are not used, and they are sent again
            sent.join()
        run.free(self._keep_ms)
        return result

    def _is_full(self, batch: Batch) -> bool:
        return len(batch.records) == self._journal.at_once or batch.lost_from is not None

    def _settle(self, run: JournalRun, posting: "_Posting", *, first: bool, asked: bool) -> bool:
        """Wait for the answer to a batch and apply it; return whether the batch was acknowledged."""
        batch = posting.batch
        try:
            mark = posting.answer()
        except ArxError as error:
            self._fail(run.boot, str(error), error.code)
            return False
        if mark.log is not None:
            self._seen.take(mark.log)
        if asked and (why := run.doubt(mark.high_water, mark.leaf)) is not None:
            self._fail(run.boot, f"{why}: another process has the service's key, or this verifier's state", "bad_mark")
            return False
        if not first and mark.high_water < batch.first - 1:
            return False  # this batch overtook the one before it, and must be sent again
        forward = run.acknowledge(batch, mark.high_water)
        self._succeed(run, batch, forward=forward, asked=asked)
        return True

    def _start(self, batch: Batch) -> "_Posting":
        """Encode and sign a batch, and start sending it."""
        body, now = batch.encode(), now_ms()
        url = self._issuer + PATH
        headers = {
            "Content-Type": MEDIA_TYPE,
            "User-Agent": USER_AGENT,
            "DPoP": make_dpop(self._key, method="POST", url=url, now=now),
            HEADER: sign_batch(self._key, batch, body, realm=self._realm, issuer=self._issuer, now=now),
        }
        if (seen := self._seen.asks()) is not None:
            headers[SEEN_HEADER] = str(seen)
        posting = _Posting(batch, lambda: self._post(url, body, headers))
        posting.start()
        return posting

    def _post(self, url: str, body: bytes, headers: dict[str, str]) -> Mark:
        try:
            # A redirect would carry the records, and their signed statement, to another host.
            response = self._http.post(url, content=body, headers=headers, follow_redirects=False)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            why = no_answer(error, self._issuer)
            raise StoreError(f"the mint at {shorten(self._issuer)} does not answer: {why}") from error
        # Two codes for operators: a refused batch needs a person, and a mint that does not answer comes back.
        if response.status_code in _REFUSED:
            raise GrantError(f"the mint refuses the batch: {_detail(response)}", code="bad_batch")
        if response.status_code != 200:
            raise StoreError(f"the mint cannot take records now: {_detail(response)}")
        return read_mark(response.content)

    def _succeed(self, run: JournalRun, batch: Batch, *, forward: bool, asked: bool) -> None:
        self._failures.pop(run.boot, None)
        self._retry_at.pop(run.boot, None)
        self._recover()
        if not asked and forward:
            self._shipped += len(batch.records)
            self._lost += batch.first - batch.lost_from if batch.lost_from is not None else 0
            if batch.lost_from is not None:
                _log.error("records %d to %d of run %s are lost", batch.lost_from, batch.first - 1, batch.boot)
        elif not asked:
            # Without this pause, a mint that never gets further would be asked endlessly at full speed.
            self._fail(run.boot, "the mint did not take the batch, and wants another one", "bad_batch")

    def _recover(self) -> None:
        if self._error is not None and not self._retry_at:
            _log.warning("records are shipped again")
            self._error = self._code = self._failing_since = None

    def _fail(self, boot: str, why: str, code: str) -> None:
        failures = self._failures[boot] = self._failures.get(boot, 0) + 1
        # Jitter, as all services lose a mint at the same moment and would return to it together.
        longest = min(LAST_RETRY_S, FIRST_RETRY_S * 2 ** min(failures - 1, 20))
        self._retry_at[boot] = time.monotonic() + longest * random.uniform(0.5, 1.0)  # noqa: S311 - not a secret
        if self._failing_since is None:
            self._failing_since = time.monotonic()
        # Logged when it changes, as a mint may be down for hours.
        if why != self._error:
            _log.warning("records are not shipped, and stay in the journal: %s", why)
        self._error, self._code = why, code

    def _forget(self) -> None:
        """Forget the failures of runs that are gone."""
        for boot in [boot for boot in self._failures if boot not in self._journal.runs and boot]:
            del self._failures[boot]
            self._retry_at.pop(boot, None)

    def _warn(self) -> None:
        fill = self._journal.fill
        level = next((alarm for alarm in ALARMS if fill >= alarm), 0.0)
        if level > self._alarm:
            message = "the journal %s is at %d %% of its %d bytes; when it is full, calls are refused"
            _log.warning(message, self._journal.folder, fill * 100, self._journal.budget)
        self._alarm = level


class _Posting(threading.Thread):
    """A batch on its way to the mint, in a daemon thread.

    Args:
        batch: The batch.
        post: Sends the batch, and returns the answer.
    """

    def __init__(self, batch: Batch, post: Callable[[], Mark]) -> None:
        super().__init__(name="arx-ship-post", daemon=True)
        self.batch, self._post = batch, post
        self._answer: Mark | ArxError = StoreError("the batch was not sent")

    def run(self) -> None:
        """Send the batch."""
        try:
            self._answer = self._post()
        except ArxError as error:
            self._answer = error

    def answer(self) -> Mark:
        """Wait for the mint's answer, and return it.

        Raises:
            GrantError: The mint refuses the batch.
            StoreError: The mint did not answer, or cannot take the batch now.
            TokenError: The answer is malformed.
        """
        self.join()
        if isinstance(self._answer, ArxError):
            raise self._answer
        return self._answer


class _Problem(msgspec.Struct, frozen=True):
    code: str = ""
    detail: str = ""


def _detail(response: httpx.Response) -> str:
    try:
        problem = msgspec.json.decode(response.content, type=_Problem)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return f"status {response.status_code}"
    return f"{shorten(problem.code, 40)}: {shorten(problem.detail, 200)}"
