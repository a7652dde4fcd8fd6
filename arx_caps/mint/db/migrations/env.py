# SPDX-License-Identifier: Apache-2.0
"""Alembic's environment: run the migrations in the transaction of ``migrate``."""

from alembic import context

from arx_caps.mint.db.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    transactional_ddl=True,  # SQLite too: its driver does not commit by itself here
)
with context.begin_transaction():
    context.run_migrations()
