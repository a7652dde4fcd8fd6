# SPDX-License-Identifier: Apache-2.0
"""The fifth form: root keys beside those of the file, numbers of audience keys, and who has fetched which.

Services of before were given files, with the keys of root ``k1``.  They keep their number, which they share; the next
one that they get is theirs alone.
"""

import json

from alembic import op
from sqlalchemy import BigInteger, Column, Integer, String, Text, column, select, table

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    """Add the tables, and take over what services have."""
    op.create_table(
        "root_keys",
        Column("name", String(16), primary_key=True),
        Column("created_at", BigInteger, nullable=False),
        Column("mints_from", BigInteger),
        Column("waits", Integer, nullable=False),
        Column("used_at", BigInteger, nullable=False),
        Column("retired_at", BigInteger),
        Column("nonce", Text),
        Column("sealed", Text),
    )
    numbers = op.create_table(
        "audience_keys",
        Column("audience", String(64), primary_key=True),
        Column("n", Integer, primary_key=True, autoincrement=False),
        Column("created_at", BigInteger, nullable=False),
        Column("used_at", BigInteger, nullable=False),
        Column("retired_at", BigInteger),
    )
    fetches = op.create_table(
        "key_fetches",
        Column("holder_key", String(96), primary_key=True),
        Column("audience", String(64), nullable=False),
        Column("kids", Text, nullable=False),
        Column("at", BigInteger, nullable=False),
    )
    services = table("services", column("audience"), column("n"), column("enrolled_at"))
    for audience, n, at in op.get_bind().execute(select(services)).all():
        op.execute(numbers.insert().values(audience=audience, n=n, created_at=at, used_at=at))
        kids = json.dumps([f"k1.{n}"])
        op.execute(fetches.insert().values(holder_key=f"file:{audience}", audience=audience, kids=kids, at=at))
    op.drop_column("services", "n")
