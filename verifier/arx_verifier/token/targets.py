# SPDX-License-Identifier: Apache-2.0
"""The targets of kills and freezes that depend on a token's agent and subject.  SPEC 10.1.

Mint, verifiers and operator tools all use these functions: with a second spelling, a kill would miss.
"""

from functools import lru_cache
from hashlib import sha256
from typing import Final

import arx_verifier.names as names

REALM: Final = "realm"
MAX_TARGET_BYTES: Final = 96  # bounds the store; an agent path with `agent:` before it fits


@lru_cache(maxsize=4096)
def agent_targets(path: str) -> tuple[str, ...]:
    """Return the targets of an agent and of all paths above it, nearest first.

    Args:
        path: An agent path.  A kill of ``acme`` ends ``acme/x`` and not ``acme2``.
    """
    return tuple(f"agent:{ancestor}" for ancestor in names.ancestors(path))


def subject_target(issuer: str, subject: str) -> str:
    """Return the target of a person or a service.

    Args:
        issuer: The issuer of the ID token.
        subject: Its ``sub``.
    """
    # Hashed: the two texts joined would exceed MAX_TARGET_BYTES, and the target would show a person's name.
    return "subject:" + sha256(f"{issuer}\0{subject}".encode()).hexdigest()[:32]
