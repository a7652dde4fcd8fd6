# SPDX-License-Identifier: Apache-2.0
"""Demand approvals in tokens.  SPEC 6.4, 20.7.

The key of a demand is derived from the audience key and from what the demand is called, which is the key id and the
task: nothing is kept that could be stolen, and whoever signs again demands the same in the same bytes.
"""

from collections.abc import Iterable, Sequence

from arx_verifier.discharge import Requirement, caveat_key, require_discharge
from arx_verifier.macaroon import Macaroon


def require_approvals(made: Macaroon, kid: str, key: bytes, task: str, needs: Iterable[Sequence[str]]) -> Macaroon:
    """Return a token whose calls of some tools need an approval.

    Args:
        made: The token, with all that the mint says by itself.
        kid: The id of the key that it is signed with.
        key: That key.
        task: The task.
        needs: The tools of each approval.

    Raises:
        AttenuationError: It would be too large.
    """
    for tools in needs:
        requirement = Requirement(id=f"{kid}:{task}", tools=tuple(tools))
        made = require_discharge(made, requirement.encode(), caveat_key(key, requirement.id))
    return made
