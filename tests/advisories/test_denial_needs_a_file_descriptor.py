# SPDX-License-Identifier: Apache-2.0
"""A caller who used up a service's file descriptors could turn its denials into errors.

A client that opened connections until a service had no descriptor left made its denials raise ``OSError`` instead of
being denials that are counted, and with them the allow that came when counts were due.
"""

import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from arx_verifier.journal.decision import Decision
from arx_verifier.journal.reader import read_journal
from arx_verifier.journal.record import ChainFacts
from arx_verifier.journal.segment import SUFFIX, files_in
from arx_verifier.journal.writer import Journal

FACTS = ChainFacts(agent="acme/support", session="s-1", token="t" * 22, audience="orders", kid="k1.0")
T0 = 1_700_000_000_000


@contextmanager
def no_descriptor_left() -> Iterator[None]:
    """Use them all up."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    taken = []
    try:
        while True:
            taken.append(os.open("/dev/null", os.O_RDONLY))
    except OSError:
        pass
    try:
        yield
    finally:
        for fd in taken:
            os.close(fd)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_a_denial_needs_no_descriptor(tmp_path: Path) -> None:
    """Denials without one are counted, allows still find their place, and the counts are recorded with the next one."""
    journal = Journal(tmp_path, "v1", "orders")
    assert journal.append(Decision("ok", T0, FACTS, "x")) == 1
    with no_descriptor_left():
        journal.count("bad_signature", "10.0.0.1")
        assert [journal.append(Decision("expired", T0, FACTS, "x", peer="10.0.0.2")) for _ in range(3)] == [0, 0, 0]
        assert journal.append(Decision("ok", T0 + 2000, FACTS, "x")) == 2
    journal.close()
    counts = [each for decision in read_journal(tmp_path) for each in decision.counts]
    assert {(each.code, each.times) for each in counts} == {("bad_signature", 1), ("expired", 3)}


def test_a_folder_that_cannot_be_read_is_not_empty(tmp_path: Path) -> None:
    """On every Python: else denials had their whole share again, and a shipper took its runs for gone."""
    (tmp_path / f"a{SUFFIX}").touch()
    with no_descriptor_left(), pytest.raises(OSError, match="Too many open files"):
        files_in(tmp_path)
    assert [path.name for path in files_in(tmp_path)] == [f"a{SUFFIX}"]
    assert files_in(tmp_path / "nowhere") == []
