# SPDX-License-Identifier: Apache-2.0
"""A mint without files, as in a new container, signed a second history on a database that was put back.

Only mints whose own folder knew the first one halted.  The revocation store now keeps the last checkpoint as well: each
mint holds the log to it before anything is recorded.
"""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_caps.embedded import EmbeddedValkey
from tests.advisories.test_lost_files_are_taken_for_tampering import MANY, put, reindexed, shorten, whole
from tests.mint.rolling import WITHIN_S, Fleet, fleet
from tests.postgres import Postgres
from tests.servers import until

pytestmark = pytest.mark.servers


@pytest.fixture
def made(tmp_path: Path, realm_name: str, postgres: Postgres, valkey: EmbeddedValkey) -> Iterator[Fleet]:
    """Two mints that have signed some hundred records."""
    with fleet(tmp_path, realm_name, postgres, valkey.url) as found:
        assert put(found, 0, 1, MANY) == 200
        until(lambda: found.size(0) > MANY, WITHIN_S)
        yield found


@pytest.mark.slow
def test_a_mint_that_knows_nothing_signs_no_second_history(made: Fleet) -> None:
    """It starts first, without folder and memory: both halt, what the remedy names mends it, and both sign on."""
    for mint in made.mints:
        mint.stop()
    signed = made.size(0) if made.size(0) > made.size(1) else made.size(1)
    ahead = 0 if made.size(0) == signed else 1
    blank = made.realms[1 - ahead]
    shutil.rmtree(blank.log_dir)
    blank.log_key_path.with_suffix(".signed").unlink()
    shorten(made)
    for which in (1 - ahead, ahead):
        made.mints[which].start()
        until(lambda which=which: made.log(which) == (503, "halted"), WITHIN_S)
        assert put(made, which, MANY + 1) == 503
    assert made.size(1 - ahead) < signed
    for mint in made.mints:
        mint.stop()
    done = reindexed(made.realms[ahead])
    assert done.returncode == 0, done.stderr
    for which in (1 - ahead, ahead):
        before = made.size(which)
        made.mints[which].start()
        until(lambda which=which, before=before: made.size(which) > max(before, signed), WITHIN_S)
        assert made.log(which) == (200, "ok")
        assert whole(made, which) > signed
