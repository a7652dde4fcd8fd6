# SPDX-License-Identifier: Apache-2.0
"""Query the log: records, nodes and counts, and their export formats.  LOG 3."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_caps.audit.query.export import form_of
    from arx_caps.audit.query.live import matches
    from arx_caps.audit.query.log_events import log_events
    from arx_caps.audit.query.node_search import Question, held, reach
    from arx_caps.audit.query.questions import MAX_PAGE, OUTCOMES, Found, total
    from arx_caps.audit.query.session_calls import NO_CALLS, LastCall, SessionCalls, calls_of, last_calls
    from arx_caps.audit.query.top_names import MAX_TOP, OutcomeCounts, Series, Top, TopRow, names_above, series, top
    from arx_caps.audit.query.views import show_nodes, show_record
else:
    __getattr__, __dir__ = open_door(
        __name__,
        {
            "export": "form_of",
            "live": "matches",
            "log_events": "log_events",
            "node_search": "Question held reach",
            "questions": "Found MAX_PAGE OUTCOMES total",
            "session_calls": "NO_CALLS LastCall SessionCalls calls_of last_calls",
            "top_names": "MAX_TOP OutcomeCounts Series Top TopRow names_above series top",
            "views": "show_nodes show_record",
        },
    )

__all__ = [
    "MAX_PAGE",
    "MAX_TOP",
    "NO_CALLS",
    "OUTCOMES",
    "Found",
    "LastCall",
    "OutcomeCounts",
    "Question",
    "Series",
    "SessionCalls",
    "Top",
    "TopRow",
    "calls_of",
    "form_of",
    "held",
    "last_calls",
    "log_events",
    "matches",
    "names_above",
    "reach",
    "series",
    "show_nodes",
    "show_record",
    "top",
    "total",
]
