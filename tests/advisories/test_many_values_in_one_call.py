# SPDX-License-Identifier: Apache-2.0
"""A call with some 4,000 new values of ``distinct`` was refused, though its rows and the bound of a session allow them.

The ledger wrote all fields of a session in one command, and Lua has room for 8,000 arguments.
"""

from pathlib import Path

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_verifier.clock import now_ms
from arx_verifier.ledger.pools import MAX_MARK_FIELDS, MarkQuestion, Stopped, Taken
from tests.ledgers import look, new_ledger

pytestmark = [pytest.mark.servers, pytest.mark.spec("21.4")]


def test_a_call_that_fills_its_session_is_allowed(tmp_path: Path) -> None:
    """Each of its values counts from then on."""
    names = [f"{number:032d}" for number in range(MAX_MARK_FIELDS - 10)]
    rows = tuple((f"row-{first}", 1000, tuple(names[first : first + 1000])) for first in range(0, len(names), 1000))
    with EmbeddedValkey(tmp_path) as valkey:
        ledger = new_ledger(valkey.url, "acme")
        ledger.start()
        opened = look(ledger)[1] + 60_000  # after the ledger's beginning
        asked = MarkQuestion("s-1", opened, now_ms(), "mail.send mail", distinct=rows)
        for _ in range(2):
            assert isinstance(ledger.take("draw", "", (), None, asked), Taken)
        further = asked._replace(distinct=(("row-0", 1000, ("f" * 32,)),))
        assert isinstance(ledger.take("draw", "", (), None, further), Stopped)
        ledger.close()
