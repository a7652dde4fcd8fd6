# SPDX-License-Identifier: Apache-2.0
"""Digest a call's arguments so that its record proves them and gives nothing away.  SPEC 12.

A digest without salt could be undone by trying: amounts and ids are few.  So every record has a salt of its own, which
stands in the part that can be erased.
"""

import os
from collections import deque
from collections.abc import Mapping
from hashlib import sha256
from typing import Any, Final

import msgspec

from arx_verifier.compiled import twin
from arx_verifier.errors import RequestError
from arx_verifier.request import check_depth

SALT_BYTES: Final = 16
MAX_ARGUMENTS_BYTES: Final = 8 * 1024  # of the arguments' JSON, where an operator has it recorded
_SALTS_AT_ONCE: Final = 256
_JSON: Final = msgspec.json.Encoder(order="deterministic", enc_hook=lambda value: f"({type(value).__name__})")
_NO_JSON: Final = (msgspec.MsgspecError, TypeError, ValueError, RecursionError, OverflowError)


def digest_arguments(args: Mapping[str, Any], form: bytes | None = None) -> tuple[bytes, bytes]:
    """Hash a call's arguments for its record.

    Args:
        args: The arguments; a value that JSON has no form for counts by its type alone, so that none of its code runs.
        form: Their JSON where it was made already: RFC 8785, of arguments without a float or a name beyond U+FFFF,
            where it is the same.

    Returns:
        SHA-256 over salt and deterministic JSON, empty if there is no such JSON; and the 16-byte salt.
    """
    salt = new_salt()
    try:
        return salted(salt, form if form is not None else _JSON.encode(args)), salt
    except _NO_JSON:
        return b"", salt


def form_of(args: Mapping[str, Any]) -> bytes:
    """Return the JSON that ``digest_arguments`` hashes, of arguments that may be allowed.

    Raises:
        RequestError: There is none, as with half of a surrogate pair, or it has more than 32 nested containers.
    """
    try:
        raw = _JSON.encode(args)
    except _NO_JSON as error:
        raise RequestError("the arguments have no JSON form") from error
    if b"[" in raw or raw.rfind(b"{") > 0:  # or in a text
        check_depth(msgspec.json.decode(raw))
    return raw


@twin()
def salted(salt: bytes, form: bytes) -> bytes:
    """Hash a salt and what follows it."""
    return sha256(salt + form).digest()


def keep_arguments(args: Mapping[str, Any]) -> bytes:
    """Return the JSON that ``digest_arguments`` hashes, for its record; empty if there is none or it is too long."""
    try:
        raw = _JSON.encode(args)
    except _NO_JSON:
        return b""
    return raw if len(raw) <= MAX_ARGUMENTS_BYTES else b""


_SALTS: Final[deque[bytes]] = deque()


def new_salt() -> bytes:
    """Return 16 random bytes that were given to nobody else: one read of the kernel's serves many."""
    try:
        return _SALTS.pop()
    except IndexError:
        pool = os.urandom(SALT_BYTES * _SALTS_AT_ONCE)
        _SALTS.extend([pool[at : at + SALT_BYTES] for at in range(SALT_BYTES, len(pool), SALT_BYTES)])
        return pool[:SALT_BYTES]


os.register_at_fork(after_in_child=_SALTS.clear)  # a child must not give out its parent's
