# SPDX-License-Identifier: Apache-2.0
"""An attacker who fills the mint's disk must not enrol an agent or start a task without a record.

An auditor could not find a right that was given without a record.  Each call of a proven caller is a
decision in the mint's journal, each change an event in its database: where either cannot be written, nothing is done.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_caps.credentials.jose import SigningKey
from arx_verifier.journal.reader import read_journal
from arx_verifier.journal.writer import Journal
from arx_verifier.token.macaroon import MINT_AUDIENCE
from tests.disks import small_disk
from tests.mint.harness import LOOKUP, Harness, local_mint, make_realm
from tests.servers import until

pytestmark = pytest.mark.long

KIB = 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system on which a realm has room."""
    yield from small_disk(tmp_path / "disk", "12m")


def world_on(disk: Path, folder: Path) -> Harness:
    """A mint whose journal is on a disk, and whose realm is in a folder."""
    journal = Journal(disk / "j", "mint-1", MINT_AUDIENCE, segment_bytes=64 * KIB, max_bytes=1024 * KIB)
    made = local_mint(make_realm(folder / "realm"), journal)
    return Harness(made)


def fill_up(disk: Path) -> Path:
    """Leave no room on a disk; return what takes it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (KIB * KIB, 4 * KIB):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
    return filler


@pytest.mark.parametrize(
    "all_of_it", [pytest.param(False, marks=pytest.mark.nightly), True], ids=["the journal", "all of it"]
)
def test_what_is_done_has_its_record(disk: Path, tmp_path: Path, all_of_it: bool) -> None:
    """The mint says why it does nothing; what it said was done, before and after, has its event and its decision."""
    unit = world_on(disk, disk if all_of_it else tmp_path)
    holder, _ = unit.session()
    operator, db = unit.operator(), unit.mint.db
    filler, agents, tasks = fill_up(disk), 1, 0
    for number in range(3000):
        agent = {"path": f"acme/n{number}", "jwk": SigningKey.generate().public.jwk, "owner": "x" * 200}
        answers = [operator.call("POST", "/v1/agents", agent), holder.call("POST", "/v1/tasks", LOOKUP)]
        agents, tasks = agents + (answers[0].status_code == 201), tasks + (answers[1].status_code == 201)
        if all(answer.status_code != 201 for answer in answers):
            break
    for answer in answers:
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1"), answer.text
        print(answer.json())
        assert answer.json()["code"] in ("audit_unavailable", "store_unavailable")
        assert any(word in answer.json()["detail"] for word in ("journal", "record", "database"))
    assert (len(db.agents.list()), len(db.tasks.list())) == (agents, tasks)
    filler.unlink()
    until(lambda: operator.call("POST", "/v1/agents", agent).status_code == 201)
    assert holder.call("POST", "/v1/tasks", LOOKUP).status_code == 201
    kinds = [event["kind"] for event in unit.events()]
    assert (kinds.count("agent.enrolled"), kinds.count("task.started")) == (agents + 1, tasks + 1)
    unit.mint.close()
    values = [each.tool for each in read_journal(disk / "j") if each.allowed]
    assert values.count("arx.agents.write") > agents
    assert values.count("arx.tasks.start") > tasks
