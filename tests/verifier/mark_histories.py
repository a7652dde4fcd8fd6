# SPDX-License-Identifier: Apache-2.0
"""Random histories of calls about marks: both ledgers decide each as a plain list of the calls before it does.

``python -m tests.verifier.mark_histories --runs 1000000`` makes so many in memory, and as many at a real Valkey;
``--store valkey`` at Valkey alone, ``--first SEED`` others than before.
"""

import argparse
import os
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final

from arx_verifier.ledger.memory import MemoryLedger
from arx_verifier.ledger.pools import MarkQuestion, PoolDraw, Short, Stopped
from tests.ledgers import begin, new_ledger

T0: Final = 1_800_000_000_000
MOST_CALLS: Final = 16
AT_ONCE: Final = 2_000  # histories that a server keeps
POOL: Final = 12
MARKS: Final = ("a", "b", "c")
OF: Final = ("s", "t/1", "l/x")
DIGESTS: Final = tuple(f"{number:032x}" for number in range(5))
OUTCOMES: Final = {"after", "only_after", "distinct", "short", "taken"}


class Reference:
    """The calls of each session, in the ledger's order: each rule is read from the list."""

    def __init__(self) -> None:
        self.calls: list[tuple[MarkQuestion, int]] = []
        self.left = POOL

    def take(self, asked: MarkQuestion, cost: int, now: int, set_at: Mapping[str, int]) -> Any:
        """What the ledger must answer; it has these times of its marks."""
        before = [(call, at) for call, at in self.calls if call.session == asked.session]
        times = {field: at for call, at in before for field in call.sets}
        refused, unapproved = len(asked.after) - len(asked.shown), None
        for index, row in enumerate(asked.after):
            if not all(any(field in times for field in fields) for fields in row):
                continue
            if index < refused:
                return "after", index
            shown = zip(row, asked.shown[index - refused], strict=True)
            if unapproved is None and not all(
                set_at[field] in its for fields, its in shown for field in fields if field in times
            ):
                unapproved = "after", index
        for index, (fields, within) in enumerate(asked.only_after):
            at = next((times[field] for field in fields if field in times), None)
            if at is None or (within and max(now, asked.at) - at >= within):
                return "only_after", index
        for index, (name, most, digests) in enumerate(asked.distinct):
            had = {each for call, _ in before for of, _, values in call.distinct if of == name for each in values}
            if not set(digests) <= had and len(had | set(digests)) > most:
                return "distinct", index
        if unapproved is not None:
            return unapproved
        if cost > self.left:
            return "short"
        self.left -= cost
        self.calls.append((asked, now))
        return "taken"


def random_question(chance: random.Random, now: int) -> MarkQuestion:
    """A question as a chain's rows could ask it."""

    def fields(kind: str) -> tuple[str, ...]:
        return tuple(f"{kind}:{of}:{chance.choice(MARKS)}" for of in chance.sample(OF, chance.randint(1, 3)))

    after = tuple(tuple(fields("w") for _ in range(chance.randint(1, 2))) for _ in range(chance.randint(0, 2)))
    only_after = tuple((fields("p"), chance.choice((0, 0, 5, 50))) for _ in range(chance.choice((0, 0, 1))))
    distinct = tuple(
        (name, chance.randint(1, 4), tuple(chance.sample(DIGESTS, chance.randint(0, 2))))
        for name in chance.sample(("x", "y"), chance.randint(0, 1))
    )
    sets = tuple(dict.fromkeys(field for kind in chance.choice(("", "w", "p", "wp")) for field in fields(kind)))
    session = chance.choice(("s-1", "s-2"))
    return MarkQuestion(session, T0, now - chance.choice((0, 3)), "web.get web", after, only_after, distinct, sets)


def with_approvals(asked: MarkQuestion, chance: random.Random, set_at: Mapping[str, int]) -> MarkQuestion:
    """A question with rows that an approval answers: it names some of the marks that are set, or an earlier setting."""
    rows, shown = [], []
    for _ in range(chance.choice((0, 0, 1, 2))):
        row = tuple(
            tuple(f"w:{of}:{chance.choice(MARKS)}" for of in chance.sample(OF, chance.randint(1, 2)))
            for _ in range(chance.randint(1, 2))
        )
        rows.append(row)
        shown.append(
            tuple(
                tuple(set_at[field] - chance.choice((0, 0, 0, 1)) for field in fields if field in set_at)
                for fields in row
            )
        )
    return asked._replace(after=(*asked.after, *rows), shown=tuple(shown))


def outcome(answer: Any) -> Any:
    """An answer as the reference has it."""
    if isinstance(answer, Stopped):
        return answer.member, answer.at
    return "short" if isinstance(answer, Short) else "taken"


def compare(
    ledger: Any,
    read: Callable[[str], Mapping[Any, str]],
    clock: Callable[[], int],
    chance: random.Random,
    name: str,
    opened: int | None = None,
) -> Counter[str]:
    """Make the calls of a history at a ledger and at the reference: each answer is the same.

    Args:
        ledger: The ledger.
        read: What it has of a session: fields, with the time and the call.
        clock: Its time, ms since the Unix epoch.
        chance: Where the calls come from.
        name: What its sessions and its pool begin with.
        opened: When they were opened, where the ledger has another clock; `within` is left out then.

    Returns:
        How many calls came to each outcome.
    """
    reference, found = Reference(), Counter[str]()
    for number in range(chance.randint(1, MOST_CALLS)):
        now = clock()
        asked, cost = random_question(chance, now), chance.choice((0, 0, 1, 7))
        asked = asked._replace(session=f"{name}{asked.session}")
        if opened is not None:
            rows = tuple((fields, 0) for fields, _ in asked.only_after)
            asked = asked._replace(opened=opened, at=opened, only_after=rows)
        set_at = {
            str(field): int(value.partition(" ")[0])
            for field, value in read(asked.session).items()
            if field[:2] == "w:"
        }
        asked = with_approvals(asked, chance, set_at)
        draws = [PoolDraw(f"t/-/{name}p/usd/task", POOL, 0, opened or T0, cost, cost, asked.session)] if cost else []
        answer = ledger.take("draw", "", draws, None, asked)
        came = outcome(answer)
        found[came if isinstance(came, str) else came[0]] += 1
        assert came == reference.take(asked, cost, now, set_at), (name, number, asked, answer)
    return found


def in_memory(first: int, number: int) -> Counter[str]:
    """Compare so many histories in memory; return how many calls came to each outcome."""
    found = Counter[str]()
    for seed in range(first, first + number):
        chance, now = random.Random(seed), [T0]

        def clock(now: list[int] = now, chance: random.Random = chance) -> int:
            now[0] += chance.choice((0, 1, 10))
            return now[0]

        ledger = MemoryLedger(clock=lambda now=now: now[0])
        found += compare(ledger, lambda session, of=ledger: of.marks.get(session, ({},))[0], clock, chance, "")
    return found


def at_server(first: int, number: int, url: str) -> Counter[str]:
    """Compare so many histories at a server; return how many calls came to each outcome."""
    ledger = new_ledger(url, f"r{first}")
    opened = begin(ledger)
    found = Counter[str]()
    for seed in range(first, first + number):
        found += compare(
            ledger,
            lambda session: ledger.marks(session, opened)[1],
            lambda: opened,
            random.Random(seed),
            f"{seed}-",
            opened,
        )
    ledger.close()
    return found


def _at_own_server(first: int, number: int) -> Counter[str]:
    from arx_caps.embedded import EmbeddedValkey

    with tempfile.TemporaryDirectory() as folder, EmbeddedValkey(Path(folder), fsync="everysec") as valkey:
        return at_server(first, number, valkey.url)


STORES: Final = {"memory": ("in memory", in_memory), "valkey": ("at Valkey", _at_own_server)}


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m tests.verifier.mark_histories", description=__doc__)
    parser.add_argument("--runs", type=int, default=1_000_000, metavar="N", help="histories of each ledger [1000000]")
    parser.add_argument("--first", type=int, default=0, metavar="SEED", help="seed of the first history [0]")
    parser.add_argument("--store", choices=STORES, help="this ledger alone [both]")
    options = parser.parse_args()
    end = options.first + options.runs
    parts = [(first, min(AT_ONCE, end - first)) for first in range(options.first, end, AT_ONCE)]
    with ProcessPoolExecutor(os.cpu_count()) as workers:
        for name, work in (STORES[store] for store in ([options.store] if options.store else STORES)):
            found, done = Counter[str](), 0
            for (_, number), part in zip(parts, workers.map(work, *zip(*parts, strict=True)), strict=True):
                found, done = found + part, done + number
                if done % 20_000 == 0:
                    sys.stderr.write(f"{done} histories {name}\n")
            of = ", ".join(f"{number} {outcome}" for outcome, number in found.most_common())
            sys.stdout.write(
                f"{options.runs} histories {name}: 0 differ from the reference in {found.total()} calls, {of}\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
