# SPDX-License-Identifier: Apache-2.0
"""The demos run with real processes, and each fails if one step does not come out as expected.

``arx demo gateway`` needs an environment with the SDK of MCP, which ``make test`` does not have: ``.ci/run`` runs it.
"""

import importlib
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import arx_caps.demo
from arx_caps.cli.app import cli
from arx_caps.gateway.base.settings import read_settings
from arx_caps.mint.policy.model import Policy

DEMO = Path(arx_caps.demo.__file__).parent
STEPS, MARKS_STEPS, GATEWAY_STEPS, MEMORY_STEPS, RUN_STEPS = 23, 9, 10, 9, 8
COUNTS = {"job": STEPS, "marks": MARKS_STEPS, "gateway": GATEWAY_STEPS, "memory": MEMORY_STEPS, "run": RUN_STEPS}
ALTERED = """
from arx_caps.cli.app import main
from arx_caps.demo import job
job.EXPECTED = {step: f"not {came}" for step, came in job.EXPECTED.items()}
main()
"""
BARE = """
import importlib.util, sys
from arx_caps.cli.app import main
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "%s" else find(name, *rest)
main()
"""


def run(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=540, check=False)


@pytest.fixture(params=["job", "marks", "memory", "run", "gateway pypi", "gateway npm"])
def demo(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[list[str], ModuleType, dict[str, str]]:
    """The words of a demo, its module, which installs and starts nothing and leaves signals alone, and its steps."""
    name, _, source = request.param.partition(" ")
    module = importlib.import_module(f"arx_caps.demo.{name}")
    monkeypatch.setattr(module, "set_up", lambda *_: [])
    monkeypatch.setattr(module, "install_programs", lambda *_: [Path()], raising=False)
    monkeypatch.setattr(signal, "signal", lambda number, handler: None)
    words = [name, *(["--source", source] if source else [])]
    return words, module, module.SERVERS[source].expected if source else module.EXPECTED


@pytest.mark.nightly
@pytest.mark.servers
def test_every_step_comes_out_as_expected() -> None:
    """
    Every step holds, the kill shows when the last calls were accepted, and no secret is written.
    """
    done = run("-m", "arx_caps.cli", "demo")
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
@pytest.mark.spec("21.4", "21.7")
def test_what_a_sub_agent_reads_binds_its_session() -> None:
    """
    Every step holds, a refusal names the call that set the mark, and no secret is written.
    """
    done = run("-m", "arx_caps.cli", "demo", "marks")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{MARKS_STEPS} steps, 0 not as expected" in done.stdout
    assert "must not have untrusted, got untrusted by orders.get at orders" in done.stdout
    assert "arx1_" not in done.stdout + done.stderr


@pytest.mark.slow
@pytest.mark.servers
@pytest.mark.spec("8.7")
def test_a_coding_agent_works_without_a_secret() -> None:
    """
    Every step holds: git passes, is refused at `main` and after the kill, and no secret is written.
    """
    done = run("-m", "arx_caps.cli", "demo", "run")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{RUN_STEPS} steps, 0 not as expected" in done.stdout
    assert "arx1_" not in done.stdout + done.stderr


def test_a_demo_of_git_without_git_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """
    Its text names git, and it plays no step.
    """
    monkeypatch.setenv("PATH", "")
    lines: list[str] = []
    assert importlib.import_module("arx_caps.demo.run").run_run(lines.append)["steps"] == []
    assert lines == ["git is not installed: `arx demo run` is left out"]


@pytest.mark.nightly
@pytest.mark.servers
@pytest.mark.spec("18.4")
def test_a_poisoned_memory_reaches_no_prompt() -> None:
    """
    Every step holds, the last prompt with the poison was begun before the kill, and no secret is written.
    """
    done = run("-m", "arx_caps.cli", "demo", "memory")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{MEMORY_STEPS} steps, 0 not as expected" in done.stdout
    assert "withheld  each entry must be trusted (memory), got 3 tainted by agent:acme/research" in done.stdout
    assert "arx1_" not in done.stdout + done.stderr


@pytest.mark.nightly
@pytest.mark.servers
def test_every_step_is_compared() -> None:
    """
    With other expectations each step of a real run is reported, with what was expected, and the exit code is 1.
    """
    done = run("-c", ALTERED, "demo")
    assert done.returncode == 1, done.stdout + done.stderr
    assert done.stdout.count("[NOT AS EXPECTED: not ") == STEPS
    assert f"{STEPS} steps, {STEPS} not as expected" in done.stdout


def test_one_other_outcome_or_missing_step_fails(
    demo: tuple[list[str], ModuleType, dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """
    For each step: another outcome, or none, is named at the end and makes the exit code 1; so does an unknown step.
    """
    words, module, expected = demo

    def result_of(came: dict[str, str]) -> tuple[int, str]:
        def play(*_: object) -> Iterator[dict[str, Any]]:
            yield from ({"step": step, "came": outcome} for step, outcome in came.items())

        monkeypatch.setattr(module, "play", play)
        with pytest.raises(SystemExit) as end:
            cli.main(["demo", *words])
        assert isinstance(end.value.code, int)
        return end.value.code, capsys.readouterr().out.partition(" not as expected, in ")[2]

    assert len(expected) == COUNTS[words[0]]
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
    settings = read_settings(DEMO / "gateway.toml")
    audiences = Policy.load(DEMO / "gateway_policy.toml").audiences
    for upstream, place in zip(settings.upstreams.values(), settings.gateway.listen, strict=True):
        assert audiences[upstream.audience] == (f"http://{place}",)


@pytest.mark.parametrize(("missing", "words"), [("sqlalchemy", ["demo"]), ("aiohttp", ["demo", "gateway", "--json"])])
def test_a_missing_extra_is_one_line_to_type(missing: str, words: list[str]) -> None:
    """
    Without a part that it needs, the demo starts nothing and names the line that installs all parts.
    """
    done = run("-c", BARE % missing, *words)
    assert done.returncode == 2
    assert done.stderr.startswith("arx: the demo needs parts of ARx that are not installed\nhint: install them: pip ")
    assert re.search(r"pip install .*\[all\]", done.stderr)
    if "--json" in words:
        assert json.loads(done.stdout)["code"] == "not_installed"
