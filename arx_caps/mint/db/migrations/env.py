# SPDX-License-Identifier: Apache-2.0
"""What Alembic runs: the steps, in the transaction and on the connection that ``migrate`` gives it."""

from alembic import context

from arx_caps.mint.db.tables import METADATA

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=METADATA,
    transactional_ddl=True,  # SQLite's as well, because its driver is told not to commit by itself
)
with context.begin_transaction():
    context.run_migrations()
