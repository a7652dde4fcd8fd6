# SPDX-License-Identifier: Apache-2.0
"""Pools of budgets, what a call draws from them, and what keeps them.  SPEC 17.

For each pool, at every moment: committed + reserved + leased <= max + what an operator topped up.
"""

from collections.abc import Sequence
from typing import Final, Literal, NamedTuple, Protocol, TypeAlias

from arx_verifier.names import is_tool_pattern

PERIOD_MS: Final = {"task": 0, "hour": 3_600_000, "day": 86_400_000}
# A pool that is not drawn on for this long is forgotten.  From then on it is exhausted, and never full again.
KEEP_MS: Final = 7 * 24 * 60 * 60 * 1000
# After another server took over, or one without data: the mint's clock and both servers' are each within 30 s of the
# time.
MARGIN_MS: Final = 60_000

_MOST_DIGITS: Final = 15  # of a beginning's number, as in ledger.lua

Kind: TypeAlias = Literal["draw", "reserve", "hold", "lease"]


class PoolDraw(NamedTuple):
    """What one call asks of one pool.

    Attributes:
        pool: The pool's identity; see ``pool_id``.
        max: The caveat's ``max``, millionths.
        period_ms: The length of its period, ms; 0 for the whole task.
        opened: When it was opened, ms since the Unix epoch.
        cost: What the call takes, millionths.
        wanted: For a lease, how much to escrow, millionths; else the cost.
        session: The session of its task, which names its bucket in a cluster.
    """

    pool: str
    max: int
    period_ms: int
    opened: int
    cost: int
    wanted: int
    session: str = ""


class Taken(NamedTuple):
    """What every pool of a call gave.

    Attributes:
        remaining: By pool, what is left for others, millionths.
        amounts: By pool, what was taken: the cost; for a lease, the slice.
        period_left_ms: By pool, the time to the end of its period by the ledger's clock, ms; -1 for none.
    """

    remaining: tuple[int, ...]
    amounts: tuple[int, ...]
    period_left_ms: tuple[int, ...]


class UsedKey(NamedTuple):
    """The key of a call among the used ones of a server.

    Attributes:
        name: The key.
        keep_ms: How long to remember it, ms.
    """

    name: bytes
    keep_ms: int


class MarkQuestion(NamedTuple):
    """What one call asks of the marks of its session, and which it sets if it is allowed.  SPEC 21.4.

    A field is ``w`` (a warning) or ``p`` (a proof), what the mark is of, and its name; see ``verification.marks``.

    Attributes:
        session: The session.
        opened: When it was opened, ms since the Unix epoch.
        at: The verifier's time, ms since the Unix epoch.
        by: The tool and the service of the call.
        after: For each row, for each of its marks, the fields of which one is enough.
        only_after: For each row, the fields of its proof, and for how long that counts, ms; 0 for no end.
        distinct: For each row, its set, how many values that may have, and the digests of the call's.
        sets: The fields that it sets.
        shown: Of the last rows of ``after``, which an approval answers: for each of its marks, the times of those that
            the approver was shown.  A ledger of before refuses their calls.
    """

    session: str
    opened: int
    at: int
    by: str
    after: tuple[tuple[tuple[str, ...], ...], ...] = ()
    only_after: tuple[tuple[tuple[str, ...], int], ...] = ()
    distinct: tuple[tuple[str, int, tuple[str, ...]], ...] = ()
    sets: tuple[str, ...] = ()
    shown: tuple[tuple[tuple[int, ...], ...], ...] = ()

    @property
    def tool(self) -> str:
        """The tool of the call."""
        return self.by.rpartition(" ")[0]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the marks that it sets, each once."""
        return tuple(dict.fromkeys(field.rpartition(":")[2] for field in self.sets))


class MarkSetting(NamedTuple):
    """When a mark was set, ms since the Unix epoch, and by which call: what the ledger has as ``MS TOOL SERVICE``."""

    at: int
    tool: str
    service: str

    @classmethod
    def read(cls, value: str) -> "MarkSetting":
        """Read the value of a mark's field."""
        at, _, by = value.partition(" ")
        tool, _, service = by.rpartition(" ")
        return cls(int(at), tool, service)

    @property
    def shown_tool(self) -> str:
        """The tool; none that another holder made up, as it is no text for who reads it here."""
        return self.tool if is_tool_pattern(self.tool) else "another tool"


class Stopped(NamedTuple):
    """A row about marks that does not allow a call; nothing was set or drawn.

    Attributes:
        member: ``after``, ``only_after`` or ``distinct``; ``full`` if the session has no room for more, ``early`` if it
            was opened in the future.
        at: The row's index.
        found: For each of the row's marks that is set, when and by which call, as ``MS TOOL SERVICE``; empty if the
            ledger may have lost it.
    """

    member: str
    at: int
    found: tuple[str, ...] = ()


class Short(NamedTuple):
    """A pool that cannot give what a call costs; no pool gave anything.

    Attributes:
        at: The pool's index.
        remaining: What it has left, millionths; ``LOST``, ``EARLY``, ``BUSY``, ``WAKING`` or ``USED`` otherwise.
        wait_ms: For ``EARLY`` and ``WAKING`` the time until it gives, for ``LOST`` the time in which pools of
            new tasks are lost too; ms.
    """

    at: int
    remaining: int
    wait_ms: int = 0


LOST: Final = -1  # the ledger may have lost what was drawn from it
EARLY: Final = -2  # it is opened in the future, by the ledger's clock
BUSY: Final = -3  # it has as many open reservations and leases as it may have
WAKING: Final = -4  # no caller asked for long: the ledger waits for those that may have seen another server
USED: Final = -5  # the call itself was spent before
MAX_HELD: Final = 1000  # each is kept until it is settled, and a holder can ask for small ones
MAX_WITH_HOLDS: Final = 2000  # so that those which stay open stop no call that needs one for its own decision alone
MAX_MARK_FIELDS: Final = 4096  # of a session: a holder can delegate, and each link may have marks of its own
NEW: Final = "new"  # what a caller remembers, if no ledger has kept a pool of its realm before


def pool_id(task: str, link: str, pool: str, unit: str, per: str) -> str:
    """Return the identity of a pool.  SPEC 17.3.

    Args:
        task: The task's id; the session's, in a token without a task.
        link: The link of the delegation that opened it; empty before the first one.
        pool: Its name.
        unit: Its unit.
        per: Its period.
    """
    return f"{task}/{link or '-'}/{pool}/{unit}/{per}"


def number_of(beginning: str) -> int:
    """Return the number of a ledger's beginning, a text of number, run and MAC; 0 of none.  SPEC 17.5."""
    number = beginning.partition(" ")[0]
    # A longer one is none of a ledger, which believes no such number: it must not stay the newest for good.
    return int(number) if number.isdecimal() and len(number) <= _MOST_DIGITS else 0


def registered_in(whole: int) -> int:
    """Return what a pool has as ``reopened`` if its mint registered it while the ledger had this ``whole``."""
    return -2 - whole


class Ledger(Protocol):
    """The pools of a realm.

    Attributes:
        waits: Whether its calls may wait for a network.
    """

    waits: bool

    def take(
        self,
        kind: Kind,
        op: str,
        draws: Sequence[PoolDraw],
        used: UsedKey | None = None,
        marks: MarkQuestion | None = None,
    ) -> Taken | Short | Stopped:
        """Judge marks, take from all pools and set marks, or do nothing.  Atomic.

        Args:
            kind: ``draw`` commits the cost; ``reserve``, ``hold`` and ``lease`` keep it until ``settle``, ``hold`` only
                within one decision.
            op: A random id, under which a reservation or a lease is settled.
            draws: The pools, each once.
            used: The key of the call, which is spent first; only for a ledger that ``keeps_calls_of`` the nonces.
            marks: What it asks of marks, and which it sets; None for nothing.

        Raises:
            StoreError: The ledger did not answer; what it did is unknown.
        """

    def settle(self, op: str, used: Sequence[tuple[PoolDraw, int]]) -> Short | None:
        """Commit what was used of a reservation or a lease, and give the rest back.  A repeat changes nothing.

        Args:
            op: The id that it was taken under.
            used: By pool the millionths that were used.  More than was taken is drawn in addition, from all pools or
                from none.

        Returns:
            The pool that could not give what was used in addition; then what was taken is committed whole.

        Raises:
            StoreError: The ledger did not answer.
        """

    def undo(self, draws: Sequence[PoolDraw]) -> None:
        """Give back a ``draw`` of a call that was then refused; never called twice for one.

        Args:
            draws: What was drawn.

        Raises:
            StoreError: The ledger did not answer.
        """

    def start(self) -> None:
        """Note that the ledger exists from now on, and look at it until ``close``."""

    def close(self) -> None:
        """Give back what is escrowed, and close the connections; idempotent."""
