# SPDX-License-Identifier: Apache-2.0
"""A policy could grant more than its text or ``arx policy diff`` shows to an operator.

The idle limit of an agent's sessions was gone once other terms that fitted it as well were shorter and set none.
``net = []``, no network, was any network.  ``arx policy diff`` took ``true`` for 1 and ``false`` for 0: a rule that
was changed from the one to the other was no difference.  A mark that turns the direction of writing made an editor, or
``arx policy show``, display a rule that holds as a part of a comment.
"""

import pytest

from arx_caps.mint.policy.diff import Difference, compare
from arx_caps.mint.policy.model import Policy
from arx_verifier.errors import SettingsError
from tests.mint.harness import AGENT, Harness, now_ms

POLICY = """
[audience.orders]
origins = ["http://127.0.0.1:9001"]

[session.support]
agents = ["acme/support/*"]
ttl = "8h"
idle = "15m"

[session.all]
agents = ["acme/**"]
ttl = "4h"

[task.get]
agents = ["acme/**"]
params = { admin = { one_of = [0, 1] } }
ttl = "10m"
audience = ["orders"]
allow = [ { tool = "orders.get", args = { admin = "$admin", full = { equal = 0 }, kinds = { one_of = [1] } } } ]
"""


@pytest.mark.realm(policy=POLICY)
def test_an_idle_limit_is_not_escaped(unit: Harness) -> None:
    """A session's token lives as long as the idle limit of any terms that fit its agent, also when it is renewed."""
    holder, session = unit.open_session(unit.enrol(AGENT))
    opened = holder.call("POST", f"/v1/sessions/{session['id']}/renew").json()
    assert opened["expires_at"] <= now_ms() + 15 * 60_000
    assert session["ends_at"] <= now_ms() + 4 * 3_600_000


def test_no_network_is_not_every_network() -> None:
    """An empty list is refused where an absent one means anything: its meaning is unclear."""
    written = POLICY.replace("[task.get]", "[task.get]\nnet = []")
    with pytest.raises(SettingsError, match=r"task\.get\.net: expected a list with at least one network"):
        Policy.parse(written, "policy.toml")


@pytest.mark.parametrize(
    ("before", "after", "member"),
    [
        ("equal = 0", "equal = false", "allow"),
        ("one_of = [1]", "one_of = [true]", "allow"),
        ("one_of = [0, 1]", "one_of = [false, true]", "params"),
    ],
)
def test_a_flag_is_no_number(before: str, after: str, member: str) -> None:
    """Two policies that grant different calls have two digests."""
    old, new = (Policy.parse(text, "policy.toml") for text in (POLICY, POLICY.replace(before, after)))
    assert old.digest != new.digest
    (found,) = compare(old, new)
    assert isinstance(found, Difference)
    assert (found.kind, found.member) == ("changed", member)


@pytest.mark.parametrize("mark", ["\u202e", "\u2066", "\u200f", "\u009b", "\u2028"])
@pytest.mark.parametrize("place", ["# harmless {} comment\n[audience.orders]", '["audience".{}]'])
def test_a_policy_is_shown_as_it_is_read(mark: str, place: str) -> None:
    """What could make it look otherwise is refused with its line; a text that needs it says it by its number."""
    with pytest.raises(SettingsError, match=rf"policy\.toml:\d+: .*U\+{ord(mark):04X}|not TOML"):
        Policy.parse(POLICY.replace("[audience.orders]", place.format(mark)), "policy.toml")
    Policy.parse(POLICY.replace("equal = 0", f'equal = "\\u{ord(mark):04x}"'), "policy.toml")
