# SPDX-License-Identifier: Apache-2.0
"""An agent could put a file `click.py` into its project, and run as the bridge that the client starts there.

The bridge holds the task, and the hook of a coding agent decides on its calls: both begin in the project's folder, with
an environment that the project's settings may set.
"""

import json
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.cli.helpers import arx
from tests.connect.conftest import World
from tests.hook.test_claude_code import bundle_of, question

WAIT_S = 60
CLICK = "from pathlib import Path\nPath(__file__).with_name('ran').touch()\nraise SystemExit(0)\n"


@pytest.mark.slow
@pytest.mark.parametrize("program", ["bridge", "hook"])
def test_the_printed_command_imports_nothing_of_its_folder(program: str, tmp_path: Path) -> None:
    """Neither from the folder that it starts in, nor by Python's variables."""
    project = tmp_path / "project"
    project.mkdir()
    for name in ("click.py", "json.py", "arx_caps.py", "sitecustomize.py"):
        (project / name).write_text(CLICK)
    if program == "bridge":
        world = World(tmp_path)
        words = ("connect", "--task", world.bundle, "--print-config", "claude-code", world.url)
        entry = json.loads(arx(*words).out)["mcpServers"]["orders"]
        command, given = shlex.join([entry["command"], *entry["args"]]), b""
    else:
        words = ("hook", "claude-code", "--task", bundle_of(tmp_path), "--offline", "--print-config")
        command = json.loads(arx(*words).out)["hooks"]["PreToolUse"][0]["hooks"][0]["command"]
        given = question("Bash", {"command": "git push"})
    environment = {**os.environ, "PYTHONPATH": str(project), "PYTHONSTARTUP": str(project / "click.py")}
    options: dict[str, Any] = {"cwd": project, "env": environment, "capture_output": True, "timeout": WAIT_S}
    done = subprocess.run(command, shell=True, input=given, check=False, **options)
    assert not (project / "ran").exists(), done
    assert done.returncode == (0 if program == "bridge" else 2), done
