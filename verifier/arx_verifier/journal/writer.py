# SPDX-License-Identifier: Apache-2.0
"""Write every decision to a local journal, during the request and without waiting.  SPEC 12.

``reader`` reads it back, ``quota`` bounds it.  A journal is not tamper-evident; the audit log is.
"""

import contextlib
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable
from mmap import PAGESIZE
from pathlib import Path
from typing import Final, Literal

from arx_verifier._platform import require_posix, reset_at_fork
from arx_verifier.clock import now_ms
from arx_verifier.errors import AuditError, SettingsError
from arx_verifier.journal.decision import COUNTED, GAP, OK, UNPROVEN, Decision
from arx_verifier.journal.liveness import is_written
from arx_verifier.journal.quota import (
    denials_share,
    finish_stale,
    hold_budget,
    log_outage,
    log_recovery,
    used_in,
    warn,
)
from arx_verifier.journal.record import EFFECT, MAX_RECORD_BYTES, Gap
from arx_verifier.journal.segment import HEADER_BYTES, Segment, SegmentHeader, files_in, read_header
from arx_verifier.journal.tally import CountedError, Tally

LOST: Final = "lost"  # cause of a gap: the records' file was deleted or cut
DROPPED: Final = "dropped"  # cause of a gap: no room for an allow in a best-effort journal
MODES: Final = ("strict", "durable", "best_effort")
SEGMENT_BYTES: Final = 16 * 1024 * 1024
MAX_BYTES: Final = 1024 * 1024 * 1024  # about 3.5 million decisions
MIN_SEGMENT_BYTES: Final = 2 * MAX_RECORD_BYTES
_RESERVE_SHARE, _RESERVE_BYTES = 16, 64 * 1024  # a segment's last part is for denials, so that a full journal has some
_FRAME: Final = 12  # the most that a record takes beyond its payload, bytes
_CALL_ROOM: Final = 1024  # bytes that nearly every record fits in
_NEEDED: Final = _FRAME + _CALL_ROOM  # beside a chain's facts
_ROOMY: Final = frozenset((OK, EFFECT))  # codes of records that are no denials: those of allows, and of their effects
_LOOK_MS, _RETRY_S = 1000, 1.0  # time between two checks of the file; pause after a file that could not be opened

# A verifier's id shows whether its process shares its used nonces.  Other processes see it in the store's registry, and
# in the header of each journal file, which its writer locks while it lives.  SPEC 8.3.
_OWN: Final = "-own-nonces"
_ID: Final = re.compile(rf"(?P<audience>.+)-[0-9]+-[0-9a-f]{{6}}(?P<own>{_OWN})?(\.[0-9]+)?")  # a fork adds the last

_log = logging.getLogger(__name__)


# An allow that cannot be recorded is refused (`audit_unavailable`); in mode `best_effort` it is counted, and the gap is
# recorded when there is room again.  A denial is never delayed for room, but counted instead.  An acknowledged record
# survives the death of the process; in mode `durable` that of the host as well.
class Journal:
    """Decisions of one verifier in preallocated, mapped files.  Opened at the first decision; safe across fork.

    Args:
        folder: Folder of the files; made with mode 0700 if it is missing.
        verifier_id: The verifier's id.
        audience: Its audience.
        segment_bytes: Size of a file, bytes.
        mode: ``strict`` returns when the record is in memory that the kernel keeps, ``durable`` when it is on disk;
            ``best_effort`` as ``strict``, but lets a call go ahead without a record and records the gap later.
        max_bytes: Quota of all files of the folder, bytes.
        clock: Wall clock in ms, for file names and counts.
        on_run: Called at the first file of each run, which a forked child has of its own; it must not wait or raise.

    Raises:
        SettingsError: A size or the mode is invalid.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        verifier_id: str,
        audience: str,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        mode: Literal["strict", "durable", "best_effort"] = "strict",
        max_bytes: int = MAX_BYTES,
        clock: Callable[[], int] = now_ms,
        on_run: Callable[[], None] = lambda: None,
    ) -> None:
        require_posix("a journal")
        if not MIN_SEGMENT_BYTES <= segment_bytes <= max_bytes or segment_bytes % PAGESIZE:
            expected = f"whole pages from {MIN_SEGMENT_BYTES} up to max_bytes"
            raise SettingsError(f"invalid segment_bytes: expected {expected}, got {segment_bytes}")
        if mode not in MODES:
            raise SettingsError(f"invalid journal mode: expected one of {', '.join(MODES)}, got {mode!r}")
        self.folder, self.verifier_id, self.audience = Path(folder), verifier_id, audience
        self.waits, self._goes_on = mode == "durable", mode == "best_effort"
        self._segment_bytes, self._max_bytes, self._clock, self._on_run = segment_bytes, max_bytes, clock, on_run
        self._reserve = min(_RESERVE_BYTES, segment_bytes // _RESERVE_SHARE)
        self._kept_free = self._reserve + _FRAME
        self._begin()
        _JOURNALS.add(self)

    def _begin(self) -> None:
        """Start a run: at construction, and in a forked child, which shares nothing with its parent."""
        self._segment: Segment | None = None
        self._retired: list[Segment] = []
        self._run()
        self._gaps: dict[str, Gap] = {}
        self._alarm = 0.0
        self._denied_left, self._recount_at_s = 0, 0.0
        self._looked_ms = 0
        self._tally, self._watched = Tally(), Tally()  # of calls that go on in watch mode, the second
        self._broken, self._retry_at_s = "", 0.0
        self._lock, self._sync_lock = threading.Lock(), threading.Lock()

    def _run(self) -> None:
        self.boot = os.urandom(6).hex()
        self._sequence = self._synced = 0
        self._ended = False

    @property
    def fill(self) -> float:
        """Used share of the journal, 0.0 to 1.0; at 1.0 there is no room for an allow."""
        segment = self._segment
        free = max(0, self._max_bytes - used_in(self.folder)) // self._segment_bytes * self._segment_bytes
        if segment is not None and segment.room > self._kept_free + _CALL_ROOM:
            free += segment.room
        return 1.0 - min(1.0, free / self._max_bytes)

    def append(self, decision: Decision) -> int:
        """Record a decision; see ``DecisionSink``."""
        # Without room each attempt would count files and take a lock: a flood of calls must not slow the service down.
        if (self._retry_at_s or self._recount_at_s) and self._counted_at_once(decision, decision.code in _ROOMY):
            return 0
        try:
            if not self.waits and (sequence := self._keep_at_once(decision)):
                return sequence
            payload, allow = decision.pack(), decision.code in _ROOMY
            with self._lock:
                segment, sequence = self._write(payload, allow, decision.at)
                decision.sequence, decision.verifier, decision.boot = sequence, self.verifier_id, self.boot
            if self.waits:
                self._sync(sequence, segment)
        except AuditError:
            if (allow := decision.code in _ROOMY) and not self._goes_on:
                raise
            self._go_without(decision, allow)
            return 0
        return sequence

    def count(self, code: str, peer: str | None, *, watched: bool = False) -> None:
        """Count an unauthenticated refusal; see ``DecisionSink``."""
        with self._lock:
            (self._watched if watched else self._tally).add(code, peer)
            self._flush()

    def close(self) -> None:
        """Record the counts, release unused room and end the run.  A later decision starts another run."""
        with self._sync_lock, self._lock:
            self._look_after()
            self._flush(last=True)
            with contextlib.suppress(AuditError):  # if no file can be opened, the sequences still show the gap
                if self._segment is None and self._gaps:
                    self._next()
                self._record_gaps()
            if self.waits:
                self._sync_last()
            retired, segment = self._retired, self._segment
            self._retired, self._segment, self._ended = [], None, self._ended or segment is not None
            for old in retired:
                old.close()
            if segment is not None:
                segment.close(ended=True)

    def reset(self) -> None:
        """Start a new run without touching the files of this one, which belong to the parent or to a snapshot."""
        for segment in (*self._retired, self._segment):
            if segment is not None:
                segment.abandon()
        self._begin()

    def _keep_at_once(self, decision: Decision) -> int:
        """Record a decision on the fast path; return its sequence, or 0 if the slow path is needed."""
        payload = decision.pack()
        needed, at, allow = len(payload) + _FRAME, decision.at, decision.code in _ROOMY
        with self._lock:
            segment = self._segment
            if segment is None or not 0 <= at - self._looked_ms < _LOOK_MS:
                return 0
            if segment.room < (needed + self._reserve if allow else needed):
                return 0
            if not allow:
                if self._denied_left < needed:
                    return 0
                self._denied_left -= needed
                segment.denied[0] += needed
            segment.write(payload, sequence := self._sequence + 1)
            self._sequence = sequence  # nothing is called in between: see ``Segment.write``
            decision.sequence, decision.verifier, decision.boot = sequence, self.verifier_id, self.boot
        return sequence

    def _counted_at_once(self, decision: Decision, allow: bool) -> bool:
        """Count a decision, without making its record, if there was no room a moment ago.

        Returns:
            Whether it was counted.

        Raises:
            AuditError: It is an allow, and allows have no room.
        """
        # Without the lock: no file is opened before the next attempt, and the room of the present one only shrinks.
        if not 0 <= decision.at - self._looked_ms < _LOOK_MS:
            return False
        now_s, segment = time.monotonic(), self._segment
        stuck, left = now_s < self._retry_at_s, segment.room - _NEEDED if segment is not None else -1
        full: bool = (stuck and left < 0) or (self._denied_left < _NEEDED and now_s < self._recount_at_s)
        if not (stuck and left < self._reserve if allow else full):
            return False
        if not allow or self._goes_on:
            self._go_without(decision, allow)
            return True
        if not full or decision.code != OK:
            raise AuditError(self._broken)  # there is room for the refusal that replaces it, or none replaces it
        with self._lock:
            self._tally.add("audit_unavailable", decision.peer)
        raise CountedError(self._broken)

    def _go_without(self, decision: Decision, allow: bool) -> None:
        """Count a decision without a record."""
        decision.sequence = 0
        with self._lock:
            if allow:
                self._drop(decision.at)
            else:
                (self._watched if decision.watched else self._tally).add(decision.code, decision.peer)

    def _write(self, payload: bytes, allow: bool, at: int) -> tuple[Segment, int]:
        if not 0 <= at - self._looked_ms < _LOOK_MS:
            self._looked_ms = at
            self._look_after()
            self._flush()
        return self._put(payload, allow)

    def _put(self, payload: bytes, allow: bool) -> tuple[Segment, int]:
        needed = len(payload) + _FRAME
        segment = self._segment
        if segment is None or segment.room < needed + (self._reserve if allow else 0):
            segment = self._next()
        if not allow:
            self._deny(segment, needed)
        return segment, self._add(segment, payload)

    def _deny(self, segment: Segment, needed: int) -> None:
        """Reserve room for a denial from the share of all denials in this folder.

        Raises:
            AuditError: The share is used up.
        """
        if self._denied_left < needed and (now_s := time.monotonic()) >= self._recount_at_s:
            try:
                self._denied_left = denials_share(self.folder, self._max_bytes, needed)
            finally:
                self._recount_at_s = now_s + _RETRY_S if self._denied_left < needed else 0.0
        if self._denied_left < needed:
            raise AuditError("journal quota for denials is full (25 %): ship records")
        self._denied_left -= needed
        segment.denied[0] += needed

    def _add(self, segment: Segment, payload: bytes) -> int:
        sequence = self._sequence + 1
        segment.write(payload, sequence)
        self._sequence = sequence
        return sequence

    def _record_gaps(self) -> None:
        """Record the gaps, at the start of a new file or at the end of the last one."""
        segment = self._segment
        for why, gap in tuple(self._gaps.items()):
            payload = Decision(GAP, self._clock(), UNPROVEN, gap=gap).pack()
            if segment is not None and segment.room >= len(payload) + _FRAME:
                self._add(segment, payload)
                del self._gaps[why]

    def _drop(self, at: int) -> None:
        known = self._gaps.get(DROPPED, Gap(DROPPED, 0, 0, 0, at, at))
        self._gaps[DROPPED] = Gap(DROPPED, 0, 0, known.times + 1, min(known.since, at), max(known.since, at))

    def _look_after(self) -> None:
        segment = self._segment
        if segment is not None and not segment.healthy():
            self._segment = None
            self._lost(segment)

    def _lost(self, segment: Segment) -> None:
        """Leave a lost file; its gap is recorded at the start of the next one."""
        segment.abandon()
        first, last = segment.header.first, self._sequence
        if last >= first:
            known = self._gaps.get(LOST, Gap(LOST, first, last, 0, segment.header.created, 0))
            self._gaps[LOST] = Gap(LOST, known.first, last, last + 1 - known.first, known.since, self._clock())
        _log.error("the file %s of the decision journal is gone or was cut: decisions are lost", segment.path)

    def _flush(self, last: bool = False) -> None:
        now_s = time.monotonic()
        for tally in (self._tally, self._watched):
            if tally.due(now_s) or (last and tally):
                self._flush_tally(tally, now_s, last=last)

    def _flush_tally(self, tally: Tally, now_s: float, *, last: bool) -> None:
        counts, watched = tally.counts(), tally is self._watched
        counted = Decision(COUNTED, self._clock(), UNPROVEN, counts=counts, watched=watched).pack()
        try:
            self._put(counted, allow=False)
            tally.clear(now_s)
        except AuditError:
            segment = self._segment
            if last and segment is not None and segment.room >= len(counted) + _FRAME:
                self._add(segment, counted)  # the last counts of a run need no share: there are two such records a run
                tally.clear(now_s)
            tally.postpone(now_s)

    def _next(self) -> Segment:
        """Open the next file; if that fails, keep the present one, where denials may still fit."""
        now_s = time.monotonic()
        if now_s < self._retry_at_s:
            raise AuditError(self._broken)
        try:
            segment = self._open()
        except (OSError, AuditError) as error:
            self._broken = log_outage(self.folder, error, self._broken, refuses=not self._goes_on)
            self._retry_at_s = now_s + _RETRY_S
            raise AuditError(self._broken) from error
        self._broken, self._retry_at_s = log_recovery(self.folder, self._broken), 0.0
        old = self._segment
        retired = self._retired if old is None else [*self._retired, old]
        self._retired, self._segment = retired, segment  # in one statement: see ``Segment.write``
        if old is not None and not old.healthy():
            self._lost(retired.pop())  # it was lost since the last check
        while retired and not self.waits:
            retired.pop().close()
        self._record_gaps()
        return segment

    def _open(self) -> Segment:
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._segment is None:
            finish_stale(self.folder)
        if self._ended:
            self._run()
        self._alarm = warn(self.folder, self.fill, self._max_bytes, self._alarm, refuses=not self._goes_on)
        hold_budget(self.folder, self._segment_bytes, self._max_bytes)
        header = SegmentHeader(
            self.verifier_id, self.audience, self.boot, self._sequence + 1, self._clock(), self._max_bytes
        )
        segment = Segment(self.folder, header, self._segment_bytes)
        if self._segment is None:
            warn_beside(self.folder, self.verifier_id)
            self._on_run()
        return segment

    def _sync_last(self) -> None:
        """Sync all files before they are closed, because a decision may still wait for that."""
        segments = [*self._retired, self._segment] if self._segment is not None else self._retired
        try:
            for segment in segments:
                segment.sync()
            self._synced = self._sequence
        except OSError:
            self._give_up(segments)
            _log.exception("the disk did not keep the last decisions of the journal %s", self.folder)

    def _sync(self, sequence: int, segment: Segment) -> None:
        """Group commit: wait until a record is on the disk; one sync serves all records that wait."""
        with self._sync_lock:
            # Each record's own file is checked: a later sync of another file does not show that this one failed.
            if segment.unkept:
                raise AuditError("the decision journal was not kept by the disk")
            if self._synced >= sequence:
                return
            with self._lock:
                retired, written = self._retired, self._sequence
                segments = [*retired, self._segment] if self._segment is not None else retired
                self._retired = []
            try:
                for unsynced in segments:
                    unsynced.sync()
            except OSError as error:
                with self._lock:
                    self._give_up(segments)
                raise AuditError(f"the decision journal was not kept by the disk: {error.strerror}") from error
            self._synced = written
            for old in retired:
                old.close()

    def _give_up(self, segments: list[Segment]) -> None:
        """Leave files whose sync failed; the next decision starts a new file."""
        # After a failed sync the state of the file on disk is unknown.
        for segment in segments:
            segment.unkept = True
            segment.abandon()
        self._retired = [segment for segment in self._retired if segment not in segments]
        if self._segment in segments:
            self._segment = None


def name_verifier(audience: str, *, shares: bool) -> str:
    """Return an id for the verifier of this process.

    Args:
        audience: Its audience.
        shares: Whether its used nonces are in a store that other processes of the audience use as well.
    """
    return f"{audience}-{os.getpid()}-{secrets.token_hex(3)}{'' if shares else _OWN}"


def audience_of(verifier_id: str) -> str | None:
    """Return the audience in an id of ``name_verifier``; None for any other id."""
    match = _ID.fullmatch(verifier_id)
    return match["audience"] if match else None


def apart(ids: Iterable[str]) -> dict[str, list[str]]:
    """Return the audiences whose processes each accept a call once, with the ids of those processes.

    Args:
        ids: Ids of living verifiers; those that ``name_verifier`` did not make are ignored.
    """
    processes: dict[str, list[str]] = {}
    alone: set[str] = set()
    for name in sorted(set(ids)):
        if match := _ID.fullmatch(name):
            processes.setdefault(match["audience"], []).append(name)
            alone |= {match["audience"]} if match["own"] else set()
    return {audience: names for audience, names in processes.items() if audience in alone and len(names) > 1}


def writers(folder: Path) -> list[str]:
    """Return the ids of the verifiers that write to a journal's folder now; unreadable files are skipped."""
    ids = []
    with contextlib.suppress(OSError):
        for path in files_in(folder):
            with contextlib.suppress(OSError, AuditError):  # shipped since, or damaged
                if is_written(path):
                    ids.append(_writer(path))
    return ids


def _writer(path: Path) -> str:
    with path.open("rb") as file:
        return read_header(file.read(HEADER_BYTES)).verifier


def warn_beside(folder: Path, name: str) -> None:
    """Log a warning if other processes of the audience do not share their used nonces with this one.

    Args:
        folder: The journal's folder, in which this process has a file: of two that start together, one sees the other.
        name: This process's id.
    """
    for audience, names in apart(writers(folder)).items():
        if name in names:
            others = ", ".join(other for other in names if other != name)
            _log.warning(
                "%s is not the only process of %s, and they do not share used calls: each accepts one call once (%s). "
                'Name a Redis in the service file, "nonces": "redis://HOST", or run one process; '
                "a restart during which both run needs nothing",
                *(name, audience, others),
            )


_JOURNALS: Final = reset_at_fork(Journal.reset)
