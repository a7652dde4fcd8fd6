# SPDX-License-Identifier: Apache-2.0
"""The header ``Idempotency-Key``: parsing, and the digest of a call's content.  CONTROL 4.4.

``endpoint`` answers a retry again; ``db.unit_of_work`` and ``db.repositories.work.repeats`` keep its key.
"""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from arx_verifier.errors import RequestError

HEADER: Final = "Idempotency-Key"
MAX_KEY_CHARS: Final = 64  # room for two UUIDs
# Credentials expire or may be used once, so a repeat of the same caller brings others.
_CREDENTIALS: Final = ("assertion", "workload_token", "subject_token")


def read_key(text: str) -> str:
    """Return the key of the header: 1 to 64 visible characters, with or without quotes.

    Raises:
        RequestError: The header is not such a key.
    """
    key = text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text
    if not 0 < len(key) <= MAX_KEY_CHARS or not key.isascii() or not key.isprintable() or " " in key or '"' in key:
        raise RequestError(
            f"invalid {HEADER}: expected 1 to {MAX_KEY_CHARS} visible characters; use a fresh random key for each "
            "call, and the same key when you retry it"
        )
    return key


def digest_of(method: str, path: str, members: Mapping[str, Any], *, opens: bool) -> str:
    """Return the digest of a call's content; a repeat must have the same.

    Args:
        method: The HTTP method.
        path: The path.
        members: The body's members.
        opens: Whether the body's credentials identify the caller, and so are not part of the content.

    Returns:
        SHA-256 of method, path and members as canonical JSON, hexadecimal.
    """
    content = {name: value for name, value in members.items() if not (opens and name in _CREDENTIALS)}
    return hashlib.sha256(msgspec.json.encode([method, path, content], order="sorted")).hexdigest()
