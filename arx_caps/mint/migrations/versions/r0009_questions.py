# SPDX-License-Identifier: Apache-2.0
"""Sessions are found by whom they are for, and tasks by their template, along an index."""

from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    """Add the indexes."""
    op.create_index("sessions_of_subjects", "sessions", ["subject", "opened_at", "id"])
    op.create_index("tasks_of_templates", "tasks", ["template", "started_at", "id"])
