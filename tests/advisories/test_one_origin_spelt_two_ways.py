# SPDX-License-Identifier: Apache-2.0
"""A policy could give one origin to two services in two spellings, so that calls for one reached the other.

``https://x`` for one service and ``https://x:443`` for another passed.  A client knows services by origin alone,
so a task that had the token of but one of them sent it to the other, which learnt calls that were not for it; a task
with both could call neither.  Ports beyond 65535 and texts that are no address passed as well, and every bundle of such
a task was one that no agent could read.
"""

import pytest

from arx_caps.mint.policy.model import Policy
from arx_verifier.errors import SettingsError

POLICY = """
[audience.orders]
origins = ["{}"]
[audience.payments]
origins = ["{}"]
"""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("https://x.example", "https://x.example:443"),
        ("http://x.example:80", "http://x.example"),
        ("http://[::1]", "http://[::1]:80"),
        ("http://[::1]:9001", "http://[0:0:0:0:0:0:0:1]:9001"),
    ],
)
def test_one_place_has_one_audience(one: str, other: str) -> None:
    """However it is spelt, the second one is refused, and the error says where."""
    with pytest.raises(SettingsError, match="origins"):
        Policy.parse(POLICY.format(one, other), "policy.toml")


@pytest.mark.parametrize(
    "origin", ["https://x.example:65536", "https://[:::::]", "https://[::01]", "https://[1.2.3.4]"]
)
def test_what_no_client_could_reach_is_refused(origin: str) -> None:
    """A mistake in an origin is reported when the policy is loaded, not by every agent's library."""
    with pytest.raises(SettingsError, match="expected an origin"):
        Policy.parse(POLICY.format(origin, "https://y.example"), "policy.toml")


def test_different_places_stay_different() -> None:
    """Another scheme, port or host is another place."""
    for other in ("http://x.example", "https://x.example:8443", "https://x.example.", "https://[::2]"):
        assert Policy.parse(POLICY.format("https://x.example", other), "policy.toml").audiences["payments"] == (other,)
