# SPDX-License-Identifier: Apache-2.0
"""Calls at several places in turns: what else the machine does meets all alike."""

import statistics
from collections.abc import Callable, Mapping, Sequence

# Calls for a time, s, and returns how long each call took, ms.
Caller = Callable[[float], Sequence[float]]
WARM_S = 0.5


def latencies(
    callers: Mapping[str, Caller], without: Mapping[str, str], turns: int, seconds: float
) -> dict[str, dict[str, float]]:
    """Return p50 and p99 of a call of one client at each place, and how much more they are than elsewhere.

    Args:
        callers: By place.
        without: The place with which a place is compared; one that is not here is compared with none.
        turns: How many; all figures are their medians.
        seconds: Time of each place in a turn.

    Returns:
        ``p50_ms`` and ``p99_ms`` by place; ``added_p50_ms`` and ``added_p99_ms`` where it is compared.
    """
    for call in callers.values():
        call(WARM_S)
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in callers}
    for turn in range(turns):
        cuts = {name: _p50_p99(callers[name](seconds)) for name in rotated([*callers], turn)}
        for name, (p50, p99) in cuts.items():
            row = {"p50_ms": p50, "p99_ms": p99}
            if name in without:
                base = cuts[without[name]]
                row |= {"added_p50_ms": p50 - base[0], "added_p99_ms": p99 - base[1]}
            rows[name].append(row)
    return {name: medians(each) for name, each in rows.items()}


def medians(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the median of each member of the rows."""
    return {name: round(statistics.median(row[name] for row in rows), 4) for name in rows[0]}


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """Return the names in the order of a turn: each is the first one in its turn."""
    first = turn % len(names)
    return [*names[first:], *names[:first]]


def _p50_p99(times: Sequence[float]) -> tuple[float, float]:
    cuts = statistics.quantiles(times, n=100) if len(times) > 1 else [*times] * 99
    return cuts[49], cuts[98]
