# SPDX-License-Identifier: Apache-2.0
"""A user of the machine could have ``arx audit export`` write the records through a symbolic link.

A link to a missing file looks like no file.  A user who could make one in the folder that an operator
exports to had the records written into a file of any name, or into one that he made in between and kept open.
"""

from pathlib import Path

import pytest

from arx_caps.cli import exit_codes
from tests.cli.live import live_realm
from tests.servers import free_ports

pytestmark = pytest.mark.servers


@pytest.mark.slow
def test_an_export_follows_no_link(tmp_path: Path) -> None:
    """Neither a new one nor one that goes on, in no form; a plain file is written, readable by its owner alone."""
    with live_realm(tmp_path / "realm", free_ports(1)[0]) as live:
        link, elsewhere, out = tmp_path / "log.jsonl", tmp_path / "elsewhere", tmp_path / "own.jsonl"
        link.symlink_to(elsewhere)
        for form in ("jsonl", "selection"):
            for more in ((), ("--resume",)):
                code, *_ = live.run("audit", "export", "--out", link, "--format", form, *more)
                assert code != exit_codes.OK
                assert not elsewhere.exists()
        elsewhere.write_text("")
        assert live.run("audit", "export", "--out", link, "--resume")[0] != exit_codes.OK
        assert elsewhere.read_text() == ""
        live.ok("audit", "export", "--out", out)
        assert out.stat().st_mode & 0o777 == 0o600
        live.ok("audit", "export", "--out", out, "--resume")
