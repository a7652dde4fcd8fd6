# SPDX-License-Identifier: Apache-2.0
"""M07.  Defect: after the mint's record was moved away or removed, the mint went on writing where nobody can read.

A kill, an enrolment, a session was answered as recorded, and the mint called itself ready, while the lines went into a
file without a name and were gone with the process.
"""

import json
from pathlib import Path

import pytest

from arx_caps.mint.events import EventLog


@pytest.mark.parametrize("how", ["removed", "moved", "replaced"])
def test_what_is_recorded_stands_in_the_file_of_that_name(tmp_path: Path, how: str) -> None:
    """The next event is in a file that is there, whatever became of the one before."""
    log = EventLog(tmp_path / "events.jsonl")
    log.record("first", "mint")
    if how == "removed":
        log.path.unlink()
    else:
        log.path.rename(tmp_path / "old.jsonl")
    if how == "replaced":
        log.path.write_text("")
    log.check()
    log.record("second", "mint")
    log.record("third", "mint")
    log.close()
    assert [json.loads(line)["kind"] for line in log.path.read_text().splitlines()] == ["second", "third"]
    if how != "removed":
        assert "first" in (tmp_path / "old.jsonl").read_text()
