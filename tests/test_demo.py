# SPDX-License-Identifier: Apache-2.0
"""The demos run with real processes, and each fails if one step does not come out as expected.

``gateway_demo.py`` needs an environment with the SDK of MCP, which ``make test`` does not have: ``.ci/run`` runs it.
"""

import importlib
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from arx_caps.gateway.base.settings import read_settings
from arx_caps.mint.policy.model import Policy

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
STEPS, GATEWAY_STEPS, MEMORY_STEPS = 23, 10, 9
COUNTS = {"demo": STEPS, "gateway_demo": GATEWAY_STEPS, "memory_demo": MEMORY_STEPS}
ALTERED = """
import sys, demo
demo.EXPECTED = {step: f"not {came}" for step, came in demo.EXPECTED.items()}
sys.exit(demo.main())
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *words]
    return subprocess.run(command, cwd=EXAMPLES, capture_output=True, text=True, timeout=540, check=False)


@pytest.fixture(params=["demo", "memory_demo", "gateway_demo pypi", "gateway_demo npm"])
def demo(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, dict[str, str]]:
    """A demo's module, which installs and starts nothing and leaves the signals of this process alone; its steps."""
    monkeypatch.syspath_prepend(EXAMPLES)
    name, _, source = request.param.partition(" ")
    module = importlib.import_module(name)
    monkeypatch.setattr(sys, "argv", request.param.split())
    monkeypatch.setattr(module, "set_up", lambda *_: [])
    monkeypatch.setattr(module, "install_programs", lambda _: [Path()], raising=False)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    return module, module.SERVERS[source].expected if source else module.EXPECTED


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
    for known in ("named", "proven"):  # in the tree of the session: a bearer task, and one that is bound to a key
        assert f"acme/support/worker ({known}, {'bound' if known == 'proven' else 'bearer'})  link:" in done.stdout
    assert "arx1_" not in done.stdout + done.stderr
    assert "arxb1_" not in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.spec("18.4")
def test_a_poisoned_memory_reaches_no_prompt() -> None:
    """
    Every step holds, the last prompt with the poison was begun before the kill, and no secret is written.
    """
    done = run("memory_demo.py")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{MEMORY_STEPS} steps, 0 not as expected" in done.stdout
    assert "withheld  each entry must be trusted (memory), got 3 tainted by agent:acme/research" in done.stdout
    assert "arx1_" not in done.stdout + done.stderr


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
    demo: tuple[ModuleType, dict[str, str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """
    For each step: another outcome, or none, is named at the end and makes the exit code 1; so does an unknown step.
    """
    module, expected = demo

    def result_of(came: dict[str, str]) -> tuple[int, str]:
        def play(*_: object) -> Iterator[dict[str, Any]]:
            yield from ({"step": step, "came": outcome} for step, outcome in came.items())

        monkeypatch.setattr(module, "play", play)
        code = module.main()
        return code, capsys.readouterr().out.partition(" not as expected, in ")[2]

    assert len(expected) == COUNTS[module.__name__]
    assert result_of(expected)[0] == 0
    for step in expected:
        code, last = result_of(expected | {step: "something else"})
        assert (code, last.count("\n- "), f"\n- {step}\n" in last) == (1, 1, True)
        code, last = result_of({name: came for name, came in expected.items() if name != step})
        assert (code, last.count("\n- "), f"\n- {step}\n" in last) == (1, 1, True)
    assert result_of(expected | {"a step that is not listed": "200 ok"})[0] == 1


def test_the_files_of_the_gateway_fit_each_other() -> None:
    """
    They are read without a mistake, and each upstream is at the address of its audience.
    """
    settings = read_settings(EXAMPLES / "gateway.toml")
    audiences = Policy.load(EXAMPLES / "gateway_policy.toml").audiences
    for upstream, place in zip(settings.upstreams.values(), settings.gateway.listen, strict=True):
        assert audiences[upstream.audience] == (f"http://{place}",)
