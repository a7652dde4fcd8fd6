# SPDX-License-Identifier: Apache-2.0
"""Query the log: records, nodes and counts, and their export formats.  LOG 3."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_caps.audit.query.export import form_of as form_of
    from arx_caps.audit.query.live import matches as matches
    from arx_caps.audit.query.log_events import log_events as log_events
    from arx_caps.audit.query.node_search import Question as Question
    from arx_caps.audit.query.node_search import held as held
    from arx_caps.audit.query.node_search import reach as reach
    from arx_caps.audit.query.questions import MAX_PAGE as MAX_PAGE
    from arx_caps.audit.query.questions import OUTCOMES as OUTCOMES
    from arx_caps.audit.query.questions import Found as Found
    from arx_caps.audit.query.questions import total as total
    from arx_caps.audit.query.session_calls import NO_CALLS as NO_CALLS
    from arx_caps.audit.query.session_calls import LastCall as LastCall
    from arx_caps.audit.query.session_calls import calls_of as calls_of
    from arx_caps.audit.query.session_calls import last_calls as last_calls
    from arx_caps.audit.query.top_names import MAX_TOP as MAX_TOP
    from arx_caps.audit.query.top_names import names_above as names_above
    from arx_caps.audit.query.top_names import series as series
    from arx_caps.audit.query.top_names import top as top
    from arx_caps.audit.query.views import show_nodes as show_nodes
    from arx_caps.audit.query.views import show_record as show_record
else:
    open_door(__name__)
