# SPDX-License-Identifier: Apache-2.0
"""*Decisions*: a live feed of the audit log, and for each record why it is so, with its proof.

One reader of the log serves all viewers of the mint.  A viewer's filter is applied on the server.
"""

import time
from collections import deque
from collections.abc import Callable
from functools import cached_property
from typing import Any, Final, NamedTuple

import msgspec
from starlette.responses import Response

from arx_caps.audit.query.live import matches
from arx_caps.console.live import StreamEvent
from arx_caps.console.records import FILTERS, OUTCOMES, command_of, filters_of, meaning_of, row_of
from arx_caps.console.render import render
from arx_caps.console.visit import Page, Visit
from arx_caps.mint.api.routes.events.audit import get_proof
from arx_caps.mint.api.routes.events.trail import READ, RecordsQuery, list_records, question_of, records_after
from arx_caps.mint.context import MintContext
from arx_caps.text.trail import keys_in
from arx_verifier.errors import ArxError, GrantError, RequestError

PATH: Final = "/console/decisions"
ROWS: Final = 100  # on the page before anything is live; the script keeps at most twice as many
EVERY_S: Final = 0.3
ONLY: Final = "only"  # the member of the query that leaves out services and operators, with the value AGENTS
AGENTS: Final = "agents"
_OF_AGENTS: Final = 5 * ROWS  # records in which the first page looks for those of agents
_READ_AT_ONCE: Final = 1_000
_BEHIND: Final = 3_000  # with more new records than that, the older ones are skipped and counted as missed
_STALE_S: Final = 5.0  # a reader without viewers for longer begins at the log's end
_KEPT: Final = 40  # batches for viewers who come between two reads


class Row:
    """A record of the feed; its HTML is made once, for all viewers."""

    def __init__(self, shown: dict[str, Any]) -> None:
        self.shown, self.index = shown, int(shown["index"])

    @cached_property
    def html(self) -> str:
        """The row of the table, on one line."""
        return render("decision_row.html", row=row_of(self.shown), live=True).replace("\n", "")


class NewRecords(NamedTuple):
    """Records that were read from the log at once, oldest first.

    Attributes:
        start: Index of the first record that was read, shown or not.
        end: Index after the last.
        rows: The records.
        problem: Why nothing could be read; empty if it could.
    """

    start: int
    end: int
    rows: tuple[Row, ...]
    problem: str = ""


class RecordReader:
    """Reads the log's new records, for all viewers of a mint.

    Args:
        mint: The mint.
    """

    def __init__(self, mint: MintContext) -> None:
        self._mint = mint
        self._next: int | None = None  # index of the next record to read
        self._at = 0.0
        self.recent: deque[NewRecords] = deque(maxlen=_KEPT)

    def read(self) -> list[NewRecords]:
        """Return the new records as one batch, or none; called by one thread at a time."""
        try:
            batch = self._read()
        except ArxError as error:
            return [NewRecords(self._next or 0, self._next or 0, (), str(error))]
        if batch is None:
            return []
        self.recent.append(batch)
        return [batch]

    def _read(self) -> NewRecords | None:
        if time.monotonic() - self._at > _STALE_S:
            self._next = None
            self.recent.clear()
        self._at = time.monotonic()
        start = self._next
        shown, size = records_after(self._mint.log, None if start is None else start - 1, _READ_AT_ONCE)
        # The first batch repeats some records: a page that was opened just before may lack them.
        if start is None or size - start > _BEHIND:
            start = max(0, size - ROWS)
            shown, size = records_after(self._mint.log, start - 1, _READ_AT_ONCE)
        # A read has a bound; the next one goes on from here.
        end = self._next = min(size, start + _READ_AT_ONCE)
        # Reads of the log itself are left out of the rows.
        return (
            None if size == start else NewRecords(start, end, tuple(Row(each) for each in shown if each["index"] < end))
        )


class _Viewer:
    """What one viewer has seen of the feed.

    Args:
        wanted: Whether the viewer's filter matches a record.
        next_index: Index after the last record that the viewer has.
    """

    def __init__(self, wanted: Callable[[dict[str, Any]], bool], next_index: int) -> None:
        self._wanted, self._next = wanted, next_index

    def show(self, batch: NewRecords) -> StreamEvent | None:
        """Return the event of a batch, or None if it has nothing for this viewer."""
        if batch.problem:
            return StreamEvent(batch.problem, event="problem")
        missed = max(0, batch.start - self._next)
        # Newest first, as in the table.
        rows = [row.html for row in reversed(batch.rows) if row.index >= self._next and self._wanted(row.shown)]
        self._next = max(self._next, batch.end)
        if missed:
            rows.append(render("decision_missed.html", missed=missed).replace("\n", ""))
        return StreamEvent("".join(rows), id=str(batch.end - 1)) if rows else None


def show_decisions(visit: Visit) -> Response:
    """Show the newest decisions; a script adds new ones."""
    asked = filters_of(visit.query)
    if set(asked) & {"since", "until"}:
        raise RequestError("the feed has no time range: use the search")
    only_agents = visit.query.get(ONLY) == AGENTS
    answer = visit.call(list_records, query={**asked, "limit": _OF_AGENTS if only_agents else ROWS})
    wanted = [each for each in answer.records if asked.get("tool") or each.get("tool") != READ]
    return visit.render(
        "decisions.html",
        title="Decisions",
        command="" if only_agents else command_of("audit tail --follow", visit.query),
        rows=[row_of(each) for each in wanted if not only_agents or _is_of_agent(each)][:ROWS],
        only_agents=only_agents,
        total=answer.total,
        searched=answer.searched,
        feed=f"{PATH}/live?" + visit.link(after=answer.size - 1).partition("?")[2],
        filters=FILTERS,
        outcomes=OUTCOMES,
    )


def stream_decisions(visit: Visit) -> Response:
    """Stream new decisions that match the filter, after an index."""
    asked = filters_of({name: value for name, value in visit.query.items() if name != "after"})
    after = visit.request.headers.get("last-event-id") or visit.query.get("after", "")
    seen = int(after) if after.isascii() and after.isdigit() and len(after) < 16 else None
    # This call is the check and the record of the stream; its answer is what was missed while the browser was away.
    newest = visit.call(list_records, query={**asked, "limit": ROWS})
    question = question_of(visit.mint.db, msgspec.convert(asked, RecordsQuery))
    size = newest.size
    reader: RecordReader = visit.request.app.state.reader
    next_index = size if seen is None else min(seen + 1, size)
    only_agents = visit.query.get(ONLY) == AGENTS
    viewer = _Viewer(lambda shown: matches(question, shown) and (not only_agents or _is_of_agent(shown)), next_index)
    # The page lacks what came since it was made, at most as many rows as a page has.
    records = [each for each in reversed(newest.records) if each["index"] >= next_index]
    full = len(newest.records) == ROWS and len(records) == ROWS
    start = records[0]["index"] if full else next_index
    if newest.searched is not None and newest.next is not None:  # older records were not looked at
        start = max(start, newest.next)
    gone = NewRecords(
        start, size, tuple(Row(each) for each in records if asked.get("tool") or each.get("tool") != READ)
    )

    def first() -> list[StreamEvent]:
        batches = [gone] if size > next_index else []
        return [sent for batch in (*batches, *reader.recent) if (sent := viewer.show(batch)) is not None]

    broadcast = visit.live.broadcast("decisions", reader.read, EVERY_S)
    return visit.stream(broadcast, lambda batch, _: viewer.show(batch), first)


def _is_of_agent(shown: dict[str, Any]) -> bool:
    """Return whether a record is the decision on an agent's call, not on a service's or an operator's."""
    return shown["type"] == "decision" and bool(shown["session"])


def show_decision(visit: Visit) -> Response:
    """Show one record: why it is so, whose chain it is, and its place in the log."""
    index = _index_of(visit)
    answer = visit.call(list_records, query={"before": index + 1, "limit": 1})
    if not answer.records or answer.records[0]["index"] != index:
        raise GrantError(f"the log has no record {index}, or retention has deleted it", code="not_found")
    shown = answer.records[0]
    signed = visit.mint.log.publisher.head()
    return visit.render(
        "decision.html",
        title=f"Record {index}",
        command=f"arx audit prove {index}",
        shown=shown,
        row=row_of(shown),
        keys=keys_in(shown),
        meaning=meaning_of(shown.get("code", "")),
        signed=signed is not None and signed.size > index,
        origin=answer.origin,
    )


def send_proof(visit: Visit) -> Response:
    """Send a record with its inclusion proof, which ``arx audit verify`` checks offline."""
    index = _index_of(visit)
    proof = visit.call(get_proof, path={"path": str(index)})
    headers = {"Cache-Control": "no-store", "Content-Disposition": f'attachment; filename="{index}.tlog-proof"'}
    return Response(proof.content, 200, headers, media_type="text/plain; charset=utf-8")


def _index_of(visit: Visit) -> int:
    text = visit.request.path_params["index"]
    if not (text.isascii() and text.isdigit() and len(text) < 16):
        raise GrantError("a record is named by its index, a number", code="not_found")
    return int(text)


PAGES: Final = (
    Page("GET", PATH, show_decisions),
    Page("GET", f"{PATH}/live", stream_decisions),
    Page("GET", PATH + "/{index}", show_decision),
    Page("GET", PATH + "/{index}/proof", send_proof),
)
