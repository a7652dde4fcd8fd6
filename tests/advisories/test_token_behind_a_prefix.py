# SPDX-License-Identifier: Apache-2.0
"""An agent got a person's access token from an upstream that echoed it, if the header's prefix ended in no space.

What was looked for in the answer was the last word of the header, with such a prefix: the token alone passed.
"""

from pathlib import Path

import pytest

from tests.gateway.people import people
from tests.gateway.test_people import asked, connected

pytestmark = [pytest.mark.servers, pytest.mark.spec("CONTROL 9.3")]


def test_the_token_alone_is_not_passed_on(tmp_path: Path) -> None:
    """The upstream takes the header with its prefix, and shows the token without it."""
    with people(tmp_path, ', prefix = "token="') as world, connected(world, "ann") as client:
        echoed = asked(client, "/items/echo")
        assert (echoed.status_code, "canary" in echoed.text) == (502, False)
        assert "answered with its credential" in echoed.json()["detail"]
