# SPDX-License-Identifier: Apache-2.0
"""A caller could make a protected function raise an uncounted Python error, with a token that is not text.

Where a tool is called by a message, its token is whatever that message's JSON had there: a number, a list.  The plain
form raised ``TypeError`` or ``AttributeError`` out of the library, which a caller that catches refusals does not
catch, and nothing was counted.  And a generator was taken for a function: its body ran after the grant had been put
away, so that it could neither see who called nor ask again.
"""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from arx_verifier.enforcement.base.guard import protect
from arx_verifier.errors import ArxError, SettingsError
from tests.verifier.serving import Realm


@pytest.mark.parametrize(
    ("token", "code"),
    [
        *((value, "malformed") for value in (5, 1.5, True, ["arx1_x"], {"arx1_x": 1}, b"arx1_x", ("a",))),
        *((value, "missing_token") for value in (None, "", 0, [], b"")),
    ],
    ids=repr,
)
def test_a_token_that_is_no_text_is_refused_and_counted(token: Any, code: str) -> None:
    """As one of ARx's own errors, with nothing run."""
    realm = Realm()

    @protect(realm.verifier, tool="orders.get")
    def get(order_id: str) -> None:
        pytest.fail(f"ran with {order_id}")

    with pytest.raises(ArxError) as refused:
        get(order_id="A-1", arx_token=token)
    assert refused.value.code == code
    assert realm.codes == [code]


def test_a_generator_is_not_protected() -> None:
    """Its body would run outside every check."""

    def plain(order_id: str) -> Iterator[str]:
        yield order_id

    async def awaited(order_id: str) -> AsyncIterator[str]:
        yield order_id

    for function in (plain, awaited):
        with pytest.raises(SettingsError, match="generator"):
            protect(Realm().verifier, tool="orders.get")(function)
