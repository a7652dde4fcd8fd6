# SPDX-License-Identifier: Apache-2.0
"""The demo plays the main job with real processes, and says so when one thing does not come as expected."""

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from arx_caps.demo import __main__ as demo
from arx_caps.demo.story import Scene, Story

pytestmark = pytest.mark.servers


def test_the_demo_holds_and_leaves_nothing_running() -> None:
    """
    Every scene comes as expected; kill and confirmation have their figures; the decisions tell who did what.
    """
    done = subprocess.run(
        [sys.executable, "-m", "arx_caps.demo", "--json"], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
    told = json.loads(done.stdout)
    assert told["holds"]
    assert len(told["scenes"]) >= 15
    [kill] = [scene for scene in told["scenes"] if "last_accepted_after_ms" in scene]
    assert set(kill["last_accepted_after_ms"]) == {"orders", "payments"}
    assert kill["report"].startswith("confirmed: 3 of 3 verifiers")
    assert "arx1_" not in done.stdout + done.stderr
    assert "arxb1_" not in done.stdout + done.stderr


def test_one_unmet_expectation_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """
    When a scene does not come as expected the demo says which, and exits with 1.
    """
    play_all = Story.scenes

    def one_is_wrong(self: Story) -> Iterator[Scene]:
        for number, scene in enumerate(play_all(self)):
            yield Scene(scene.title, "something else", scene.came) if number == 3 else scene

    monkeypatch.setattr(Story, "scenes", one_is_wrong)
    monkeypatch.setattr(sys, "argv", ["demo"])
    assert demo.main() == 1
    told = capsys.readouterr().out
    assert told.count("NOT AS EXPECTED") == 1
    assert "expected: something else" in told
