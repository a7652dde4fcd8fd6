# SPDX-License-Identifier: Apache-2.0
"""A log's database, on either system."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_caps.audit.store.log_store import LogStore
from tests.servers import BOTH, empty_database


@pytest.fixture(params=BOTH)
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with nothing in it."""
    yield from empty_database(request, tmp_path / "audit.db")


@pytest.fixture
def store(url: str) -> Iterator[LogStore]:
    """An empty log."""
    with LogStore(url) as made:
        made.create()
        yield made
