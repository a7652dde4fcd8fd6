# SPDX-License-Identifier: Apache-2.0
"""The bound of SPEC 10 in a simulated world, relays included, and mistakes that the simulation must notice.

``python -m tests.simulation.run`` looks at more seeds, prints one run's story, and plays any of the mistakes.
"""

import logging
from collections.abc import Iterator

import pytest

from tests.simulation.code import load
from tests.simulation.mutations import MUTATIONS
from tests.simulation.run import Run, story
from tests.simulation.world import MS

pytestmark = pytest.mark.long
HARD = {  # mistakes that take many worlds
    "chain not compared",
    "probe answered by a replica",
    "relay confirms for itself",
    "silent ones not named",
    "unattested server answers",
}

RUNS, PARTS = 1_000, 8
TRIES = 300  # a mistake is found within so many runs; most within twenty


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """A thousand worlds have thousands of alarms."""
    logging.disable()
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.spec("10.6")
@pytest.mark.parametrize("part", [0, *(pytest.param(part, marks=pytest.mark.nightly) for part in range(1, PARTS))])
def test_the_bound_holds_and_service_comes_back(part: int) -> None:
    """
    No killed or frozen token is accepted later than the lease, nor once that was confirmed, and no history comes back;
    when the faults are over, every verifier accepts what is alive.
    """
    code, accepted, late, events = load(), 0, 0, 0
    for seed in range(part * RUNS // PARTS, (part + 1) * RUNS // PARTS):
        run = Run(seed, code).play()
        assert not run.world.violations, story(run)
        accepted += run.judge.accepted
        late = max(late, run.judge.worst)
        events += run.world.events
    # Else the worlds were so bad that no verifier accepted anything, which proves nothing.
    assert accepted > 10 * RUNS / PARTS
    assert late > 500 * MS, "some acceptance comes close to the bound of a second"
    assert events > 500 * RUNS / PARTS


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.nightly if name in HARD else ()) for name in MUTATIONS]
)
def test_a_mistake_is_noticed(name: str) -> None:
    """
    Each of these simplifications of the real code lets a revoked token in, and the simulation sees it.
    """
    code = load(MUTATIONS[name])
    for seed in range(TRIES):
        found = Run(seed, code).play().world.violations
        if any("accepted" in violation for violation in found):
            return
    pytest.fail(f"{TRIES} runs did not notice: {name}")


def test_a_run_can_be_repeated() -> None:
    """
    The same seed gives the same story, event by event: a violation can be looked at.
    """
    code = load()
    first, again = (Run(7, code).play().world for _ in range(2))
    assert first.events == again.events
    assert list(map(str, first.trace)) == list(map(str, again.trace))


def test_a_mistake_that_no_longer_fits_the_code_is_an_error() -> None:
    """
    A patch whose text the code has not exactly once is refused, so that no change of the code disables it silently.
    """
    with pytest.raises(AssertionError, match="0 times"):
        load({"epoch": (("no such line", ""),)})
    with pytest.raises(AssertionError, match="times"):
        load({"follower_core": (("self._due", ""),)})
