# SPDX-License-Identifier: Apache-2.0
"""docs/adapters/index.md: a tool without an adapter, with a real mint and service."""

from pathlib import Path
from typing import Any

import pytest

from tests.adapters.agent_world import world
from tests.house.pages import ROOT, blocks

pytestmark = pytest.mark.servers

PAGE = ROOT / "docs" / "adapters" / "index.md"


def test_a_tool_of_any_framework_answers_in_words(tmp_path: Path) -> None:
    """The page's function: an allowed call passes, a refused one and one after a kill are texts for the model."""
    source = next(block.text for block in blocks(PAGE.read_text(encoding="utf-8")))
    with world(tmp_path) as desk, desk.session("acme/other") as session:
        names: dict[str, Any] = {"task": session.start_task("refund", order_id="o-1", amount=20), "DESK": desk.url}
        exec(compile(source, PAGE.name, "exec"), names)
        refund = names["refund"]
        with names["desk"]:
            assert refund("o-1", 20) == '{"refunded":20}'
            assert refund("o-1", 50).startswith("refund was refused: amount must be between 1 and 20, got 50.")
            desk.kill(f"task:{names['task'].id}")
            assert refund("o-1", 20).startswith("An operator ended this work")
            assert not names["calls"].offers("refund")
        assert desk.calls == ["orders.refund o-1 20"]
