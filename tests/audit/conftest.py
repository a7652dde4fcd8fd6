# SPDX-License-Identifier: Apache-2.0
"""A log's database, on either system."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from arx_caps.audit.store import LogStore
from tests.postgres import Postgres


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """A database with nothing in it."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/audit.db"
        return
    postgres: Postgres = request.getfixturevalue("postgres")
    made = postgres.database()
    yield made
    postgres.drop(made)


@pytest.fixture
def store(url: str) -> Iterator[LogStore]:
    """An empty log."""
    with LogStore(url) as made:
        made.create()
        yield made
