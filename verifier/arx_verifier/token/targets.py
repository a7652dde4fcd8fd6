# SPDX-License-Identifier: Apache-2.0
"""The targets that a token names: what a kill or a freeze can be aimed at.  SPEC 10.1.

Mint, verifiers and operators must write one target alike, or a kill would miss: this is its only spelling.
"""

from functools import lru_cache
from hashlib import sha256
from typing import Final

import arx_verifier.names as names

REALM: Final = "realm"
MAX_TARGET_BYTES: Final = 96


@lru_cache(maxsize=4096)
def agent_targets(path: str) -> tuple[str, ...]:
    """Return the targets of an agent and of everyone above it: killing ``acme`` ends ``acme/x`` and not ``acme2``."""
    return tuple(f"agent:{ancestor}" for ancestor in names.ancestors(path))


def subject_target(issuer: str, subject: str) -> str:
    """Return the target of a person or service; hashed, because two joined texts would be ambiguous and too long."""
    return "subject:" + sha256(f"{issuer}\0{subject}".encode()).hexdigest()[:32]
