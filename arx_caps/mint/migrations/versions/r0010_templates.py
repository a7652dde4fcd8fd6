# SPDX-License-Identifier: Apache-2.0
"""Whether a session has a task of a template is told by an index, however many tasks there are of it."""

from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    """Add the index."""
    op.create_index("tasks_by_template", "tasks", ["session", "template"])
