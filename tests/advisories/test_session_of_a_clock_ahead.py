# SPDX-License-Identifier: Apache-2.0
"""A session that a mint with a clock ahead had opened was clean after the ledger lost its marks.

It counted as opened after the ledger's new beginning.
"""

from pathlib import Path

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_verifier.clock import now_ms
from arx_verifier.ledger.pools import MARGIN_MS, MarkQuestion, Stopped
from tests.ledgers import begin, new_ledger

pytestmark = [pytest.mark.spec("21.5"), pytest.mark.servers]


@pytest.mark.parametrize(("ahead_ms", "member"), [(10 * MARGIN_MS, "early"), (MARGIN_MS // 2, "after")])
def test_a_loss_counts_for_a_session_of_the_future(ahead_ms: int, member: str, tmp_path: Path) -> None:
    """Or its calls wait until then."""
    with EmbeddedValkey(tmp_path) as valkey:
        ledger = new_ledger(valkey.url, "ahead")
        begin(ledger)
        asked = MarkQuestion("s-1", now_ms() + ahead_ms, now_ms(), "web.get web")
        ledger.take("draw", "", (), None, asked._replace(sets=("w:s:untrusted",)))
        ledger.begin_anew()
        stopped = ledger.take("draw", "", (), None, asked._replace(after=((("w:s:untrusted",),),)))
        ledger.close()
    assert isinstance(stopped, Stopped)
    assert stopped.member == member
