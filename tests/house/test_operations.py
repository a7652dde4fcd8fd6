# SPDX-License-Identifier: Apache-2.0
"""docs/operations.md shows what happens: its console runs, and the numbers that it lists are those that there are."""

import re
import shutil
from pathlib import Path

import pytest

from arx_caps.mint.api.metrics import Metrics
from tests.house.pages import blocks
from tests.house.reader import Reader
from tests.mint.harness import local_mint, make_realm
from tests.servers import free_ports

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")


@pytest.mark.servers
def test_its_console_runs(tmp_path: Path) -> None:
    """
    A realm is started with numbers and a log, looked at and copied, as the page says, and answers as it shows.
    """
    if shutil.which("curl") is None:
        pytest.skip("curl is not installed")
    ports = {shown: str(free) for shown, free in zip(("8700", "9700"), free_ports(2), strict=True)}
    reader = Reader(tmp_path, ports)
    try:
        for block in blocks(PAGE):
            if block.language == "console":
                reader.console(block.text.replace("arx init", f"arx init --listen 127.0.0.1:{ports['8700']}"))
        assert (tmp_path / "mint-backup.db").stat().st_size > 0
    finally:
        reader.stop()


def test_it_lists_the_numbers_that_there_are(tmp_path: Path) -> None:
    """
    Every number that a mint exports is in the page's table, and no other.
    """
    mint = local_mint(make_realm(tmp_path / "realm"))
    mint.db.create()
    mint.log.store.create()
    names = re.findall(r"^# TYPE (\w+) ", Metrics(mint).text().decode(), re.MULTILINE)
    mint.close()
    listed = set(re.findall(r"`(arx_\w+)(?:\{[^`]*)?`", PAGE))
    assert {name for name in names if not name.endswith("_created")} == listed
