# SPDX-License-Identifier: Apache-2.0
"""Taints: which entries of a memory a kill, a freeze or an operator has made untrusted.  SPEC 18.4.

A taint is a freeze of a target such as ``memory:agent:acme/x@AAAAAAAA``, so that the store, its followers and the
mint's database keep and deliver it as any freeze.  It names the tainted target and a window of time.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import lru_cache
from hashlib import sha256
from typing import Final, NamedTuple

from arx_verifier.errors import MalformedTokenError
from arx_verifier.revocation.epoch import Epochs
from arx_verifier.token.wire import bytes_of, text_of

PREFIX: Final = "memory:"
DIGEST_BYTES: Final = 8  # of a target in a derived stamp; two alike taint an entry too much, and never too little
# The kinds of targets that entries have.  A freeze of such a target taints them while it is in force.
COARSE: Final = ("agent", "subject")  # few, and each lives for long
FINE: Final = ("session", "task", "link")  # many, and each is soon over
KEY: Final = "key"  # of the memory key that stamped the entry
TIME_BYTES: Final = 6  # of a time in a taint, ms since the Unix epoch
_TIME_CHARS: Final = 8
LATEST_MS: Final = 2 ** (8 * TIME_BYTES) - 1


class TaintWindow(NamedTuple):
    """What a target wrote in a time is tainted.

    Attributes:
        target: The target; ``realm`` taints the entries of all.
        since: The first tainted time, ms since the Unix epoch; 0 for all before ``until``.
        until: The first time that is not tainted any more, or None.
    """

    target: str
    since: int = 0
    until: int | None = None

    def meets(self, first: int, last: int) -> bool:
        """Return whether an entry is tainted whose time is between ``first`` and ``last``, ms."""
        return self.since <= last and (self.until is None or first < self.until)

    def __str__(self) -> str:
        """Return the target whose freeze is this taint."""
        until = "" if self.until is None else f".{_text_of(self.until)}"
        return f"{PREFIX}{self.target}@{_text_of(self.since)}{until}"


def read_window(text: str) -> TaintWindow | None:
    """Return the taint that a frozen target is, or None if it is none.

    Args:
        text: A target.  Whether the target in it exists is not checked.
    """
    if not text.startswith(PREFIX):
        return None
    target, _, times = text[len(PREFIX) :].rpartition("@")
    since, dot, until = times.partition(".")
    if not target or len(since) != _TIME_CHARS or (dot and len(until) != _TIME_CHARS):
        return None
    try:
        return TaintWindow(target, _time_of(since), _time_of(until) if dot else None)
    except MalformedTokenError:
        return None


def windows_of(frozen: Iterable[str]) -> dict[str, list[TaintWindow]]:
    """Return the taints among frozen targets, by the target that they taint."""
    found: dict[str, list[TaintWindow]] = defaultdict(list)
    for text in frozen:
        window = read_window(text)
        if window is not None:
            found[window.target].append(window)
    return dict(found)


# A frozen target is tainted as a whole, unless an operator has said since when: by a taint without an end that is
# younger than the freeze, so that another kill taints all again.
def taints_of(target: str, frozen: Mapping[str, int], known: Iterable[TaintWindow]) -> list[TaintWindow]:
    """Return all taints of a target.

    Args:
        target: The target.
        frozen: All frozen targets, each with the sequence of its freeze.
        known: The taints of the target that are frozen as such.
    """
    windows, seq = list(known), frozen.get(target)
    if seq is not None and not any(window.until is None and frozen[str(window)] > seq for window in windows):
        windows.append(TaintWindow(target))
    return windows


def change_taints(
    target: str, frozen: Mapping[str, int], *, since: int | None = None, until: int | None = None, forget: bool = False
) -> tuple[list[str], list[str]]:
    """Return what to freeze and what to thaw so that a target's taints get other times.

    Args:
        target: The target.
        frozen: All frozen targets, each with the sequence of its freeze.
        since: What the target wrote before is trusted again, ms since the Unix epoch; None to leave that.
        until: What it writes from then on is trusted, if its taint has no end; None to leave that.
        forget: Whether a freeze of the target taints nothing, as no kill came with it.

    Returns:
        Targets to freeze, and targets to thaw.
    """
    known = windows_of(text for text in frozen if text.startswith(f"{PREFIX}{target}@")).get(target, [])
    after = known if forget else taints_of(target, frozen, known)
    if until is not None:
        after = [window if window.until is not None else window._replace(until=until) for window in after]
    if since is not None:
        after = [window._replace(since=max(window.since, since)) for window in after]
    kept = {str(window) for window in after if window.until is None or window.since < window.until}
    before = {str(window) for window in known}
    # One that was there before the freeze has to be frozen again, or it would not replace that.
    seq = None if until is not None else frozen.get(target)
    stale = {text for text in kept & before if seq is not None and since is not None and frozen[text] < seq}
    return sorted((kept - before) | stale), sorted(before - kept)


@lru_cache(maxsize=65_536)
def digest_of(target: str) -> bytes:
    """Return the digest of a target in a derived stamp: 8 bytes."""
    return sha256(target.encode()).digest()[:DIGEST_BYTES]


class TaintIndex:
    """The taints of one moment, by target.

    Attributes:
        changes: ``Epochs.freeze_changes`` of that moment.
        targets: Windows by target.
        digests: Windows by a target's digest.
        kids: The frozen keys.
        fine: The windows of sessions, tasks and links.
        all: All windows.
    """

    __slots__ = ("all", "changes", "digests", "fine", "kids", "targets")

    def __init__(self, changes: int, frozen: Mapping[str, int]) -> None:
        self.changes = changes
        self.targets: dict[str, list[TaintWindow]] = windows_of(frozen)
        for target in frozen:
            kind = target.partition(":")[0]
            if kind in _TAINTING and not target.startswith("task:a-"):  # an approval is no task that writes
                self.targets[target] = taints_of(target, frozen, self.targets.get(target, ()))
        self.kids = {target.partition(":")[2] for target in self.targets if target.startswith(f"{KEY}:")}
        self.all = [window for windows in self.targets.values() for window in windows]
        self.fine = [window for window in self.all if window.target.partition(":")[0] in FINE]
        self.digests = {digest_of(target): windows for target, windows in self.targets.items()}


_TAINTING: Final = frozenset(("realm", KEY, *COARSE, *FINE))


class Taints:
    """The taints in a view of the kill epoch.

    Args:
        epochs: The view.
    """

    def __init__(self, epochs: Epochs) -> None:
        self._epochs = epochs
        self._index = TaintIndex(-1, {})

    def current(self) -> TaintIndex:
        """Return the taints of the view as it is now; the view may be stale."""
        changes = self._epochs.freeze_changes
        if self._index.changes != changes:
            # Counted before it is copied: a change in between makes the next call read it again.
            self._index = TaintIndex(changes, self._epochs.freezes())
        return self._index


def _text_of(ms: int) -> str:
    return text_of(ms.to_bytes(TIME_BYTES, "big"))


def _time_of(text: str) -> int:
    return int.from_bytes(bytes_of(text), "big")
