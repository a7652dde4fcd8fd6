# SPDX-License-Identifier: Apache-2.0
"""A one-shot token's text, taken apart; how it is taken apart stands in ``call_proof``.  SPEC 8.1."""

import msgspec


class Call(msgspec.Struct, frozen=True, gc=False):
    """A one-shot token's text, taken apart but proven by nothing.

    Attributes:
        head: The text before the tail: the same for every call with one parent.
        rest: The 0 to 2 bytes of the parent that fall into the tail.
        caveat: The call caveat's bytes.
        signature: 32 bytes.
        issued_at: When the holder signed, ms since the Unix epoch.
        digest: 43 characters.
    """

    head: str
    rest: bytes
    caveat: bytes
    signature: bytes
    issued_at: int
    digest: bytes

    @property
    def stamp(self) -> bytes:
        """Time and nonce as they stand in the caveat."""
        return self.caveat[55:92]

    def __repr__(self) -> str:
        return "<Call>"  # its text could be sent by whoever reads it
