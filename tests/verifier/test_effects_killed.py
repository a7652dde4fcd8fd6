# SPDX-License-Identifier: Apache-2.0
"""SIGKILL at each step of a call: an effect is unknown or what the tool did, and is there before the whole answer."""

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from arx_verifier.journal.decision import Decision
from arx_verifier.journal.reader import read_journal
from arx_verifier.journal.record import AWAITED
from tests.servers import until
from tests.verifier.effect_killing import KINDS, STEPS, STREAMS

pytestmark = [pytest.mark.spec("12.8"), pytest.mark.servers]


def begun(kind: str, folder: Path, step: str) -> subprocess.Popen[bytes]:
    (folder / "journal").mkdir(mode=0o700)
    command = [sys.executable, "-m", "tests.verifier.effect_killing", kind, str(folder), step]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def size(folder: Path, name: str) -> int:
    try:
        return (folder / name).stat().st_size
    except FileNotFoundError:
        return 0


def found_in(folder: Path) -> tuple[list[Decision], list[Decision]]:
    """Return the decisions whose effects are awaited, and the records of effects."""
    records = list(read_journal(folder / "journal"))
    effects = [each for each in records if each.outcome == "effect"]
    return [each for each in records if each.effect == AWAITED], effects


CASES = [
    pytest.param(kind, step, marks=[] if kind == "asgi" else pytest.mark.nightly)
    for kind in KINDS
    for step in STEPS
    if step != "part" or kind in STREAMS
]


@pytest.mark.parametrize(("kind", "step"), CASES)
def test_a_kill_leaves_no_wrong_effect(kind: str, step: str, tmp_path: Path) -> None:
    """Before its record the effect is unknown.  Behind it, the client has not got the whole answer yet."""
    with begun(kind, tmp_path, step) as child:
        code = child.wait(120)
    assert code == (0 if step == "none" else -signal.SIGKILL)
    awaited, effects = found_in(tmp_path)
    assert len(awaited) == 1
    assert size(tmp_path, "did") == (step != "begin")
    recorded = step in ("recorded", "none")
    assert [(each.effect.result, each.effect.of) for each in effects if each.effect] == (
        [("done", awaited[0].id)] if recorded else []
    )
    assert size(tmp_path, "got") == (step == "none")


def kill_at_random(kind: str, folder: Path, seed: int) -> tuple[int, int]:
    """Kill a process that calls as fast as it can; return how many effects are there, and how many are unknown."""
    with begun(kind, folder, "") as child:
        calls = random.Random(seed).randrange(1, 40)
        until(lambda: size(folder, "got") >= calls, 120)
        os.kill(child.pid, signal.SIGKILL)
        child.wait(60)
    awaited, effects = found_in(folder)
    named = Counter(each.effect.of for each in effects if each.effect is not None)
    assert set(named.values()) <= {1}, "two effects of one decision"
    assert named.keys() <= {each.id for each in awaited}
    results = Counter(each.effect.result for each in effects if each.effect is not None)
    assert results.keys() <= {"done"}
    assert results["done"] <= size(folder, "did"), "done, and the tool did not"
    assert size(folder, "got") <= results["done"], "a client has the whole answer of a call without a record"
    return len(effects), len(awaited) - len(effects)


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    ["asgi", *(pytest.param(kind, marks=pytest.mark.nightly) for kind in ("wsgi", "mcp", "grpc")), "gateway-mcp"],
)
def test_a_kill_at_any_moment_leaves_no_wrong_effect(kind: str, tmp_path: Path) -> None:
    """At most the running call is unknown."""
    assert kill_at_random(kind, tmp_path, 7)[1] <= 1


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize(
    "kind",
    ["asgi", *(pytest.param(kind, marks=pytest.mark.nightly) for kind in ("wsgi", "mcp", "grpc")), "gateway-mcp"],
)
def test_a_hundred_kills_leave_no_wrong_effect(kind: str, seed: int, tmp_path: Path) -> None:
    """The same, at a hundred moments."""
    assert kill_at_random(kind, tmp_path, seed)[1] <= 1
