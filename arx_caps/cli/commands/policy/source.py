# SPDX-License-Identifier: Apache-2.0
"""Where a command gets a policy from: a file, or the mint, which keeps each one that was in force."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from arx_caps.cli.access.place import Place
from arx_caps.cli.exit_codes import DENIED, Stop
from arx_caps.cli.resources import POLICIES
from arx_verifier.errors import SettingsError

if TYPE_CHECKING:
    from arx_caps.mint.policy.model import Policy

IN_FORCE = "in-force"


def policy_of_file(file: str) -> "Policy":
    """Return the policy of a file.

    Raises:
        Stop: It has a mistake; exit code 1.
    """
    from arx_caps.mint.policy.model import Policy

    try:
        return Policy.load(file)
    except SettingsError as error:
        raise Stop(str(error), DENIED, code=error.code) from error


def any_policy(place: Place, which: str) -> "Policy":
    """Return the policy of a file, or of a digest at the mint."""
    is_file = Path(which).is_file() or "/" in which or "." in which
    return policy_of_file(which) if is_file else kept_policy(place, which)


def kept_policy(place: Place, digest: str) -> "Policy":
    """Return the policy of a digest at the mint, or the one in force."""
    from arx_caps.mint.policy.model import Policy

    found = fetch_policy(place, digest)
    return Policy.parse(found["policy"], f"policy {found['digest']}")


def fetch_policy(place: Place, digest: str) -> dict[str, Any]:
    """Return the mint's answer about the policy of a digest, or the one in force."""
    path = POLICIES.path_of(digest)  # first: a mistake in the name is reported without a mint
    return place.mint().call("GET", path)
