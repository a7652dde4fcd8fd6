# SPDX-License-Identifier: Apache-2.0
"""An agent could have an operator approve a text that holds an invisible mark and looks like another text.

``acct-1`` and ``acct-1`` with a space of no width are two accounts to a service and one to a reader.  ``arx`` writes
what is approved in ASCII; other displays, such as a page of the operator's own, do not.
"""

from typing import Any

import pytest

from arx_caps.mint.tasks.discharge import constraints_of
from arx_verifier.errors import GrantError

UNSEEN = (
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u180e\u200b\u200c\u200d\u200e\u2060\u2064\u206a\u3164\ufe0f\ufeff\uffa0\ufff9\U0001d173"
    "\U000e0041\U000e0100"
)


@pytest.mark.parametrize("mark", list(UNSEEN), ids=ascii)
@pytest.mark.parametrize("where", ["acct-{}1", "{}acct-1", "acct-1{}", "{}"])
def test_an_invisible_text_is_not_approved(mark: str, where: str) -> None:
    """
    In a text, in a list, as a name, and inside objects and lists.
    """
    text = where.format(mark)
    nested: list[dict[str, Any]] = [{"to": {"a": text}}, {"to": {text: 1}}, {"to": [{"a": [1, {text: 1}]}]}]
    for args in ({"to": text}, {"to": ["x", text]}, {text: "x"}, *nested):
        with pytest.raises(GrantError, match=f"U\\+{ord(mark):04X}"):
            constraints_of(args)


@pytest.mark.parametrize(
    "text",
    [
        "caf\u00e9 10\u00a0\u20ac\n\tna\u00efve",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # a word of Persian, with a joiner
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",  # a family
        "\u2764\ufe0f 1\ufe0f\u20e3",  # a heart, and a key with a digit
        "\u0915\u094d\u200d\u0937",
    ],
    ids=ascii,
)
def test_what_is_written_so_is(text: str) -> None:
    """
    Scripts and emoji that need a joiner keep it.
    """
    made: Any = constraints_of({"note": text})
    assert made == {"note": text}
