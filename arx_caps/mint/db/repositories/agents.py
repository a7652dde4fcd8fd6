# SPDX-License-Identifier: Apache-2.0
"""Agents, and the keys by which each holder is known.

A key belongs to one holder, so who signs is never ambiguous.
"""

from collections.abc import Iterable, Mapping
from typing import Any, Final

import msgspec
from sqlalchemy import Column, Select, delete, func, insert, or_, select, update
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError

from arx_caps.keyfile import PublicKey
from arx_caps.mint.db.cursor import Order, Text, behind
from arx_caps.mint.db.database import PAGE, Database, now_ms, plain
from arx_caps.mint.db.events import Event
from arx_caps.mint.db.repositories.holder_keys import add_key
from arx_caps.mint.db.tables import AGENTS, HOLDER_KEYS, OPERATORS, SERVICES
from arx_verifier.errors import GrantError, RequestError

AGENTS_ORDER: Final = Order((AGENTS.c.path,), tuple[Text])


class PeopleState(Database):
    """Agents, and the keys of all who have one."""

    def add_agent(
        self, path: str, key: PublicKey | None, *, owner: str | None, metadata: Mapping[str, str], what: Event
    ) -> None:
        """Enrol an agent with its first key, or with none where it is known otherwise.

        Raises:
            GrantError: ``agent_exists`` or ``key_enrolled``.
        """
        row = {"path": path, "status": "active", "owner": owner, "created_at": now_ms()}
        row["metadata"] = msgspec.json.encode(dict(metadata), order="sorted").decode()
        with self.write(what) as c:
            try:
                with c.begin_nested():
                    c.execute(insert(AGENTS).values(**row))
            except IntegrityError:
                ended = c.execute(select(AGENTS.c.status).where(AGENTS.c.path == path)).scalar() != "active"
                said = "was deactivated, and its name is not given again" if ended else "is enrolled already"
                raise GrantError(f"the agent {path} {said}", code="agent_exists") from None
            if key is not None:
                add_key(c, path, key)

    def agent(self, path: str) -> dict[str, Any] | None:
        """Return an agent's row, or None."""
        return self.row(select(AGENTS).where(AGENTS.c.path == path))

    def agents(
        self, *, status: str | None = None, under: str | None = None, after: str | None = None, limit: int = PAGE
    ) -> list[dict[str, Any]]:
        """Return agents by path.

        Args:
            status: Only those of this status.
            under: Only this path's agent and those below it.
            after: Only those behind this place of the list.
            limit: At most so many.
        """
        statement = select(AGENTS)
        if status is not None:
            statement = statement.where(AGENTS.c.status == status)
        if under is not None:
            below = AGENTS.c.path.startswith(under + "/", autoescape=True)
            statement = statement.where(or_(AGENTS.c.path == under, below))
        return self.rows(behind(statement, AGENTS_ORDER, after), limit)

    def ended_targets(self) -> set[str]:
        """Return the targets of deactivated agents and of removed operators."""
        with self.read() as c:
            agents = c.execute(select(AGENTS.c.path).where(AGENTS.c.status == "deactivated")).scalars()
            operators = c.execute(select(OPERATORS.c.id).where(OPERATORS.c.status == "removed")).scalars()
            return {*(f"agent:{path}" for path in agents), *(f"operator:{name}" for name in operators)}

    def set_agent_status(self, path: str, status: str, what: Event) -> None:
        """Deactivate or thaw an agent; what it holds is not ended by it."""
        with self.write(what) as c:
            ended = now_ms() if status == "deactivated" else None
            c.execute(update(AGENTS).where(AGENTS.c.path == path).values(status=status, ended_at=ended))

    def describe_agent(
        self, path: str, owner: Mapping[str, str | None], metadata: Mapping[str, str | None], by: str, *, most: int
    ) -> None:
        """Change what is said of an agent.

        Args:
            path: The agent's path.
            owner: ``owner`` and who that is, or nothing to leave it.
            metadata: Members to set; None or an empty text takes one away.
            by: Who changes it.
            most: How many members there may be afterwards.

        Raises:
            RequestError: There would be more.
        """
        with self.write() as c:
            row = c.execute(select(AGENTS).where(AGENTS.c.path == path).with_for_update()).one()
            merged: dict[str, str | None] = {**msgspec.json.decode(row.metadata, type=dict[str, str]), **metadata}
            kept = {name: text for name, text in merged.items() if text}
            if len(kept) > most:
                raise RequestError(f"metadata has at most {most} members")
            values = {"metadata": msgspec.json.encode(kept, order="sorted").decode(), **owner}
            c.execute(update(AGENTS).where(AGENTS.c.path == path).values(**values))
            self.record_in(c, Event.of("agent.described", by, agent=path, metadata=kept, **owner))

    def change_keys(
        self, holder: str, add: PublicKey | None, remove: str | None, what: Event, *, keep_one: bool = True
    ) -> None:
        """Enrol another key of a holder, take one away, or both in one step; adding one that it has changes nothing.

        Args:
            holder: Whose.
            add: The key to enrol, or None.
            remove: Thumbprint of the key to take away, or None.
            what: The event.
            keep_one: Whether one must be left.

        Raises:
            GrantError: ``key_enrolled``; ``not_found``; ``conflict``: it would be left without a key.
        """
        with self.write(what) as c:
            _lock(c, holder)
            # Whoever repeats a call whose answer was lost finds it done.
            if add is not None and c.execute(_key(holder, add.kid)).first() is None:
                add_key(c, holder, add)
            if remove is not None:
                which = (HOLDER_KEYS.c.holder == holder, HOLDER_KEYS.c.kid == remove)
                if c.execute(delete(HOLDER_KEYS).where(*which)).rowcount == 0:
                    raise GrantError(f"{holder} has no key {remove!r:.60}", code="not_found")
            left = c.execute(select(func.count()).select_from(HOLDER_KEYS).where(HOLDER_KEYS.c.holder == holder))
            if keep_one and not left.scalar():
                raise GrantError("a holder keeps one key; add another first", code="conflict")

    def find_key(self, holder: str, kid: str) -> PublicKey | None:
        """Return a holder's enrolled key by its thumbprint, or None."""
        row = self.row(_key(holder, kid))
        return PublicKey({"kty": "OKP", "crv": "Ed25519", "x": row["x"]}) if row is not None else None

    def holder_of(self, kid: str) -> str | None:
        """Return whose key this is, or None."""
        row = self.row(select(HOLDER_KEYS.c.holder).where(HOLDER_KEYS.c.kid == kid))
        return str(row["holder"]) if row is not None else None

    def kids(self, holder: str) -> list[str]:
        """Return the thumbprints of a holder's enrolled keys."""
        return [row["kid"] for row in self.keys_of(holder)]

    def keys_of(self, holder: str) -> list[dict[str, Any]]:
        """Return a holder's enrolled keys, the oldest first."""
        return self.rows(select(HOLDER_KEYS).where(HOLDER_KEYS.c.holder == holder).order_by(HOLDER_KEYS.c.added_at))

    def keys_of_all(self, holders: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
        """Return the enrolled keys of several holders, the oldest first."""
        found: dict[str, list[dict[str, Any]]] = {holder: [] for holder in holders}
        wanted = select(HOLDER_KEYS).where(HOLDER_KEYS.c.holder.in_(found)).order_by(HOLDER_KEYS.c.added_at)
        with self.read() as c:
            for row in c.execute(wanted):
                found[row.holder].append(plain(row))
        return found


_OWNERS: Final[dict[str, Column[Any]]] = {
    "agent": AGENTS.c.path,
    "operator": OPERATORS.c.id,
    "service": SERVICES.c.audience,
}


def _key(holder: str, kid: str) -> Select[Any]:
    return select(HOLDER_KEYS).where(HOLDER_KEYS.c.kid == kid, HOLDER_KEYS.c.holder == holder)


def _lock(c: Connection, holder: str) -> None:
    """Be alone with a holder: of two who take away its last two keys, one must see what the other left."""
    kind, colon, name = holder.partition(":")
    column = _OWNERS[kind if colon else "agent"]
    c.execute(select(column).where(column == (name if colon else holder)).with_for_update())
