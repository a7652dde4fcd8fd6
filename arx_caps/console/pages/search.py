# SPDX-License-Identifier: Apache-2.0
"""*Audit search*: records by session, agent, person, delegation, tool, outcome, reason and time; pages and exports.

A session, task, delegation or agent finds what came from it and what it came from, as the API does.
*Verify now* checks all rows of the log against the signed files.
"""

from collections.abc import Iterator
from importlib.metadata import version
from typing import Final

from starlette.responses import HTMLResponse, Response, StreamingResponse

from arx_caps.audit.query.export import form_of
from arx_caps.console.records import FILTERS, OUTCOMES, command_of, filters_of, row_of
from arx_caps.console.time_range import AGES, keep_range, range_of
from arx_caps.console.visit import Page, Visit
from arx_caps.mint.api.routes.events.audit import check_of, get_log_check, start_log_check
from arx_caps.mint.api.routes.events.trail import READ, list_records
from arx_verifier.errors import RequestError

PATH: Final = "/console/search"
ROWS: Final = 50
EXPORTED: Final = 100_000  # records of one download; the command line has no such bound
_PAGE: Final = 1_000
_MEDIA: Final = {
    "csv": "text/csv; charset=utf-8",
    "jsonl": "application/jsonl",
    "ocsf": "application/jsonl",
}


def show_search(visit: Visit) -> Response:
    """Show a page of the records that match all filters, the newest first."""
    # Only as the menu opens it: a link leads to all that its filters find.
    if not visit.query and (since := range_of(visit, "")):
        return visit.redirect(PATH, since=since)
    asked = filters_of(visit.query)
    before = visit.query.get("before", "")
    answer = visit.call(list_records, query={**asked, "limit": ROWS, "before": before})
    rows = [row_of(each) for each in answer.records]
    # One agent that has records, not a pattern, and not an operator or a service.
    agents = {row.chain[0] for row in rows if row.chain and ":" not in row.chain[0]}
    page = visit.render(
        "search.html",
        title="Audit search",
        command=command_of("audit trail", visit.query),
        export=command_of("audit export --format csv --out records.csv", visit.query),
        rows=rows,
        total=answer.total,
        older=None if answer.next is None else visit.link(before=answer.next),
        searched=answer.searched,
        newest=visit.link(before=None) if before else None,
        filters=FILTERS,
        outcomes=OUTCOMES,
        ages=AGES,
        asked=asked,
        agent=asked["agent"] if asked.get("agent") in agents else "",
        at_most=EXPORTED,
        check=visit.call(get_log_check),
    )
    return keep_range(visit, page)


def send_export(visit: Visit) -> Response:
    """Send the records that match all filters as CSV, JSON lines or OCSF, in the log's order."""
    name = visit.query.get("format", "csv")
    if name not in _MEDIA:
        raise RequestError("invalid format: expected csv, jsonl or ocsf")
    asked = filters_of({key: value for key, value in visit.query.items() if key != "format"})
    # The first page is read before the answer begins, so that a refusal is a page and not half a file.
    first = visit.call(list_records, query={**asked, "after": -1, "limit": _PAGE})
    form = form_of(name, origin=first.origin, version=version("arx-caps"))

    def lines() -> Iterator[str]:
        answer, written = first, 0
        yield form.head
        while True:
            records = [each for each in answer.records if each["index"] < first.size][: EXPORTED - written]
            yield "".join(map(form.line, records))
            written += len(records)
            last = answer.searched is None and len(answer.records) < _PAGE
            if last or written == EXPORTED or answer.next is None or answer.next >= first.size - 1:
                return
            # Each page is a call of its own: an operator who loses the right gets no more.
            answer = visit.call(list_records, query={**asked, "after": answer.next, "limit": _PAGE})

    suffix = "csv" if name == "csv" else "jsonl"
    headers = {"Cache-Control": "no-store", "Content-Disposition": f'attachment; filename="records.{suffix}"'}
    return StreamingResponse(lines(), 200, headers, media_type=_MEDIA[name])


def start_check(visit: Visit) -> Response:
    """Begin a check of all rows against the signed files."""
    visit.call(start_log_check)
    return visit.redirect(f"{PATH}/check")


def show_check(visit: Visit) -> Response:
    """Show how far the check is; a script asks for the part that changes."""
    if visit.request.headers.get("hx-request") and visit.still(READ):  # recorded once, with the page
        return HTMLResponse(visit.fragment("log_check.html", check=check_of(visit.mint)))
    return visit.render(
        "search_check.html", title="Check of the audit log", command="arx audit check", check=visit.call(get_log_check)
    )


PAGES: Final = (
    Page("GET", PATH, show_search),
    Page("GET", f"{PATH}/export", send_export),
    Page("GET", f"{PATH}/check", show_check),
    Page("POST", f"{PATH}/check", start_check),
)
