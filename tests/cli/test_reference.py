# SPDX-License-Identifier: Apache-2.0
"""docs/cli.md is what ``python -m tests.cli.reference`` writes."""

from tests.cli.reference import reference
from tests.house.pages import ROOT


def test_the_documentation_says_what_the_commands_say() -> None:
    """The page has each command, option and help as the commands have them."""
    assert (ROOT / "docs" / "cli.md").read_text("utf-8") == reference()
