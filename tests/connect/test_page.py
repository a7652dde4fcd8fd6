# SPDX-License-Identifier: Apache-2.0
"""The commands of docs/connect.md, as they are shown."""

import contextlib
import re
import shlex
from pathlib import Path

from tests.cli.helpers import arx
from tests.connect.conftest import World
from tests.house.pages import ROOT, blocks, matches

PAGE = (ROOT / "docs" / "connect.md").read_text("utf-8")
SHOWN = "127.0.0.1:9001"


def words(world: World, containing: str) -> list[str]:
    """The one command of the page with a text, for the server of a world."""
    (text,) = [block.text for block in blocks(PAGE) if block.language == "sh" and containing in block.text]
    return shlex.split(text.replace(SHOWN, f"127.0.0.1:{world.port}"))[1:]


def test_the_snippet_is_the_pages(tmp_path: Path) -> None:
    """The page shows what the command prints."""
    world = World(tmp_path)
    with contextlib.chdir(tmp_path):
        ran = arx(*words(world, "--print-config"))
    assert ran.exit_code == 0, ran
    (shown,) = [block.text for block in blocks(PAGE) if block.language == "json"]
    # The words before `connect` are those of this machine.
    written = re.sub(r'("args": \[\n)(.*\n)*(\s+"connect")', r"\1…\n\3", ran.out.replace(str(world.port), "9001"))
    assert matches(shown, written)
