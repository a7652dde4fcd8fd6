# SPDX-License-Identifier: Apache-2.0
"""The demo runs the whole job with real processes, and fails if one step does not come out as expected."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
STEPS = 21
ALTERED = """
import sys, demo
demo.EXPECTED = {step: f"not {came}" for step, came in demo.EXPECTED.items()}
sys.exit(demo.main())
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True, timeout=540, check=False)


@pytest.fixture
def demo(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The demo's module, which starts nothing and leaves the signals of this process alone."""
    monkeypatch.syspath_prepend(EXAMPLES)
    import demo  # type: ignore[import-not-found]  # the example's folder is on the path above

    monkeypatch.setattr(demo, "set_up", lambda realm: [])
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    return demo  # type: ignore[no-any-return]


@pytest.mark.slow
@pytest.mark.servers
def test_every_step_comes_out_as_expected() -> None:
    """
    Every step holds, the kill shows when the last calls were accepted, and no secret is written.
    """
    done = run("demo.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("[ok]") == STEPS
    assert f"{STEPS} steps, 0 not as expected" in done.stdout
    assert done.stdout.count(": last call accepted ") == 2
    assert "confirmed: 3 of 3 verifiers" in done.stdout
    assert "acme/support/worker (named, bearer)  link:" in done.stdout  # the tree of the session
    assert "arx1_" not in done.stdout + done.stderr
    assert "arxb1_" not in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.servers
def test_every_step_is_compared() -> None:
    """
    With other expectations each step of a real run is reported, with what was expected, and the exit code is 1.
    """
    done = run("-c", ALTERED)
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.count("[NOT AS EXPECTED: not ") == STEPS
    assert f"{STEPS} steps, {STEPS} not as expected" in done.stdout


def test_one_other_outcome_or_missing_step_fails(
    demo: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    For each step: another outcome, or none, is named at the end and makes the exit code 1; so does an unknown step.
    """

    def result_of(came: dict[str, str]) -> tuple[int, str]:
        def play(*_: object) -> Iterator[dict[str, Any]]:
            yield from ({"step": step, "came": outcome} for step, outcome in came.items())

        monkeypatch.setattr(demo, "play", play)
        code = demo.main()
        return code, capsys.readouterr().out.partition(" not as expected, in ")[2]

    assert len(demo.EXPECTED) == STEPS
    assert result_of(demo.EXPECTED)[0] == 0
    for step in demo.EXPECTED:
        code, last = result_of(demo.EXPECTED | {step: "something else"})
        assert (code, last.count("\n- "), f"\n- {step}\n" in last) == (1, 1, True)
        code, last = result_of({name: came for name, came in demo.EXPECTED.items() if name != step})
        assert (code, last.count("\n- "), f"\n- {step}\n" in last) == (1, 1, True)
    assert result_of(demo.EXPECTED | {"a step that is not listed": "200 ok"})[0] == 1
