# SPDX-License-Identifier: Apache-2.0
"""Graphiti on Kuzu: episodes, entities and facts that are stamped when they are written and checked when they are read.

``StampedGraphiti(Graphiti(graph_driver=KuzuDriver("graph.kuzu"), …), notes)``.
"""

import copy
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any, Final

import kuzu
from graphiti_core import Graphiti
from graphiti_core.driver.driver import GraphDriver, GraphProvider
from graphiti_core.edges import EntityEdge
from graphiti_core.graphiti import AddBulkEpisodeResults, AddEpisodeResults
from graphiti_core.nodes import EpisodicNode
from graphiti_core.search.search_config import SearchResults

from arx_caps.memory import MemoryEntry, TaskMemory
from arx_verifier.errors import SettingsError

# Graphiti's tables have no column of ours, and it rewrites the attributes that an entity or a fact has.
SCHEMA: Final = "CREATE NODE TABLE IF NOT EXISTS ArxStamp(uuid STRING PRIMARY KEY, stamp STRING)"
_READ: Final = "MATCH (s:ArxStamp) WHERE s.uuid IN $uuids RETURN s.uuid AS uuid, s.stamp AS stamp"
_WRITE: Final = "MERGE (s:ArxStamp {uuid: $uuid}) SET s.stamp = $stamp"
_TIMES: Final = ("valid_at", "invalid_at", "expired_at")
# What a stamp is over, by kind; the first kind whose members a record has is its kind.
_MEMBERS: Final = {
    "fact": ("group_id", "source_node_uuid", "target_node_uuid", "name", "fact", "attributes", *_TIMES),
    "episode": ("group_id", "name", "source", "source_description", "content", "valid_at"),
    "entity": ("group_id", "name", "labels", "summary", "attributes"),
    "community": ("group_id", "name", "summary"),
}
_SPELLINGS: Final = {"source_uuid": "source_node_uuid", "target_uuid": "target_node_uuid"}  # in some of its queries
_NO_TEXT: Final = ("uuid", "uuids", "group_id", "group_ids", "embedding")  # how the columns end that need no stamp


class StampedGraphiti:
    """The calls of Graphiti that read or write the graph, for a task.

    ``add_episode`` shows a model the last episodes, the nearest entities and the nearest facts, and writes what the
    model makes of them.  Only trusted ones are shown, and each is a source of what is written: of entities that are
    merged, summaries that are rewritten, facts that are replaced or end.  What stays as it was keeps its stamp.

    Args:
        graphiti: Graphiti's object, which is not changed: for what only an operator does.
        notes: The task's memory.

    Raises:
        SettingsError: The graph is not in Kuzu.
    """

    def __init__(self, graphiti: Graphiti, notes: TaskMemory) -> None:
        driver = graphiti.driver
        if driver.provider != GraphProvider.KUZU or driver.search_interface or driver.graph_operations_interface:
            raise SettingsError(f"Graphiti's driver: expected Kuzu's, got {type(driver).__name__}")
        with kuzu.Connection(driver.db) as connection:  # type: ignore[attr-defined]
            connection.execute(SCHEMA)
        self._graphiti, self._notes = graphiti, notes

    async def add_episode(self, *args: Any, **more: Any) -> AddEpisodeResults:
        """Add an episode, and what a model extracts from it, as ``Graphiti.add_episode``."""
        return await self._writing(*args, *more.values()).add_episode(*args, **more)

    async def add_episode_bulk(self, *args: Any, **more: Any) -> AddBulkEpisodeResults:
        """Add several episodes, as ``Graphiti.add_episode_bulk``."""
        return await self._writing(*args, *more.values()).add_episode_bulk(*args, **more)

    async def build_communities(self, *args: Any, **more: Any) -> Any:
        """Summarize clusters of trusted entities, as ``Graphiti.build_communities``."""
        return await self._writing(*args, *more.values()).build_communities(*args, **more)

    async def remove_episode(self, episode_uuid: str) -> None:
        """Remove a trusted episode and what only it supports, as ``Graphiti.remove_episode``."""
        await self._writing().remove_episode(episode_uuid)

    async def search(self, *args: Any, **more: Any) -> list[EntityEdge]:
        """Return trusted facts, as ``Graphiti.search``."""
        found: list[EntityEdge] = await self._reading(*args, *more.values()).search(*args, **more)
        return found

    async def search_(self, *args: Any, **more: Any) -> SearchResults:
        """Return trusted facts, entities, episodes and communities, as ``Graphiti.search_``."""
        found: SearchResults = await self._reading(*args, *more.values()).search_(*args, **more)
        return found

    async def retrieve_episodes(self, *args: Any, **more: Any) -> list[EpisodicNode]:
        """Return the last trusted episodes, as ``Graphiti.retrieve_episodes``."""
        return await self._reading(*args, *more.values()).retrieve_episodes(*args, **more)

    def _writing(self, *given: Any) -> Graphiti:
        self._notes.stamp_all([])  # before a model is asked
        return self._reading(*given)

    def _reading(self, *given: Any) -> Graphiti:
        """Return Graphiti for one call with these arguments, in which what is read is a source of what is written."""
        if any(isinstance(each, GraphDriver) for each in given):
            raise SettingsError("a call of this graph takes no driver: another one would check nothing")
        graphiti, driver = copy.copy(self._graphiti), copy.copy(self._graphiti.driver)
        guard = _Queries(self._graphiti.driver, self._notes.tracked())
        driver.execute_query = guard.execute_query  # type: ignore[method-assign]
        graphiti.driver, graphiti.clients = driver, self._graphiti.clients.model_copy(update={"driver": driver})
        del graphiti.nodes, graphiti.edges  # these have the driver that checks nothing
        return graphiti


class _Queries:
    """In place of Kuzu's driver: stamps what a query saves, and removes from its answer what is not trusted."""

    def __init__(self, driver: GraphDriver, notes: TaskMemory) -> None:
        self._query, self._notes = driver.execute_query, notes
        self._seen: dict[str, dict[str, Any]] = {}  # what was read in this call, by its id

    async def execute_query(self, cypher_query_: str, **params: Any) -> tuple[list[Any], None, None]:
        saved = _content(params)
        changed = saved is not None and self._seen.get(saved["uuid"]) != saved
        stamp = self._notes.stamp(saved) if changed else None  # first: a refused write saves nothing
        records, _, _ = await self._query(cypher_query_, **params)
        if stamp is not None:
            await self._query(_WRITE, uuid=params["uuid"], stamp=stamp)
        return await self._trusted(records), None, None

    async def _trusted(self, records: Iterable[Any]) -> list[Any]:
        found = [(record, _content(record)) for record in records if _has_text(record)]
        if not found:
            return list(records)
        uuids = [content["uuid"] for _, content in found if content is not None]
        stamps = {row["uuid"]: row["stamp"] for row in (await self._query(_READ, uuids=uuids))[0]}
        # A record of another form has no stamp: the writer of its text is unknown.
        entries = [
            MemoryEntry(record, content or "", stamps.get(content["uuid"]) if content else None)
            for record, content in found
        ]
        good = self._notes.trusted(entries)
        self._seen.update((entry.content["uuid"], entry.content) for entry in good)
        kept = {id(entry.entry) for entry in good}
        return [record for record in records if id(record) in kept or not _has_text(record)]


def _has_text(record: Any) -> bool:
    if not isinstance(record, dict):
        return True
    return any(isinstance(value, str | list | dict) and not key.endswith(_NO_TEXT) for key, value in record.items())


def _content(record: Any) -> dict[str, Any] | None:
    """Return what the stamp of a record is over, be it read or saved; None if it is nothing that is stamped."""
    if not isinstance(record, dict) or not isinstance(record.get("uuid"), str):
        return None
    spelt = {_SPELLINGS.get(key, key): value for key, value in record.items()}
    for kind, members in _MEMBERS.items():
        if all(member in spelt for member in members):
            return {"kind": kind, "uuid": spelt["uuid"], **{member: _value(spelt[member]) for member in members}}
    return None


def _value(value: Any) -> Any:
    if isinstance(value, datetime):  # Kuzu returns times without their zone
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).astimezone(UTC).isoformat()
    return sorted(value) if isinstance(value, list) else value
