# SPDX-License-Identifier: Apache-2.0
"""docs/operations.md shows what happens: its console runs; its mint exports what is registered."""

import shutil
from pathlib import Path

import pytest

from tests.exported import exported_by
from tests.house.pages import blocks
from tests.house.reader import Reader
from tests.servers import free_ports

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "operations.md").read_text(encoding="utf-8")


@pytest.mark.slow
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
        values = exported_by("mint", f"127.0.0.1:{ports['9700']}")
        assert values["arx_mint_ready"] == {(): 1.0}
        assert values["arx_kills_total"] == {("freeze",): 0.0, ("kill",): 0.0, ("thaw",): 0.0}
        assert (tmp_path / "acme.arx-backup").stat().st_size > 0
    finally:
        reader.stop()
