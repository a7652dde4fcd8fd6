# SPDX-License-Identifier: Apache-2.0
"""The second form: what the control plane keeps beyond the first.

One function a theme, each in ``THEMES``.  A column that may not be empty says what rows that are there get
(``server_default``).
"""

from collections.abc import Callable
from typing import Final

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, LargeBinary, String, Text, column, table

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Add every theme, and have versions that know the first form alone refuse this one."""
    for theme in THEMES:
        theme()
    meta = table("meta", column("name"), column("value"))
    op.execute(meta.update().where(meta.c.name == "schema").values(value=revision))


def _record() -> None:
    op.create_table(
        "outbox",
        Column("id", BigInteger().with_variant(Integer, "sqlite"), primary_key=True, autoincrement=True),
        Column("at_ms", BigInteger, nullable=False),
        Column("mint", String(64), nullable=False),
        Column("kind", String(64), nullable=False),
        Column("by", String(96), nullable=False),
        Column("body", LargeBinary, nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("outbox_by_time", "outbox", ["at_ms"])


def _subjects() -> None:
    for name in ("opened_with", "subject_issuer", "subject", "subject_claims"):
        op.add_column("sessions", Column(name, Text))
    op.add_column("tasks", Column("subject_scope", String(64)))


def _chain() -> None:
    op.add_column("epoch_high_water", Column("chain", String(40), nullable=False, server_default=""))


def _roles() -> None:
    op.add_column("operators", Column("role", String(32), nullable=False, server_default="admin"))
    op.add_column("operators", Column("rules", Text))
    op.add_column("operators", Column("ended_at", BigInteger))


THEMES: Final[tuple[Callable[[], None], ...]] = (
    _record,
    _subjects,
    _chain,
    _roles,
)
