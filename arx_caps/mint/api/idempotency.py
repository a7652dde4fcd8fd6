# SPDX-License-Identifier: Apache-2.0
"""Read the header ``Idempotency-Key``, and name what a call asks for.  CONTROL 4.4."""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

import msgspec

from arx_verifier.errors import RequestError

HEADER: Final = "Idempotency-Key"
MAX_KEY_CHARS: Final = 64  # room for two UUIDs
# Good once, or for a short time: a repeat brings others, and they stand for the same caller.
_CREDENTIALS: Final = ("assertion", "workload_token", "subject_token")


def read_key(text: str) -> str:
    """Read the header: 1 to 64 visible characters, in quotes or not.

    Raises:
        RequestError: It is none.
    """
    key = text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text
    if not 0 < len(key) <= MAX_KEY_CHARS or not key.isascii() or not key.isprintable() or " " in key or '"' in key:
        raise RequestError(f"{HEADER} is 1 to {MAX_KEY_CHARS} visible characters, a fresh random one for each thing")
    return key


def digest_of(method: str, path: str, members: Mapping[str, Any], *, opens: bool) -> str:
    """Return the digest of what is asked for, which a repeat must ask for again.

    Args:
        method: The HTTP method.
        path: The path.
        members: The body's members.
        opens: Whether credentials in the body say who asks, and not what is asked for.
    """
    asked = {name: value for name, value in members.items() if not (opens and name in _CREDENTIALS)}
    return hashlib.sha256(msgspec.json.encode([method, path, asked], order="sorted")).hexdigest()
