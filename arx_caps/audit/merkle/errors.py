# SPDX-License-Identifier: Apache-2.0
"""Errors of the audit log: malformed, tampered with, incomplete, disputed, not witnessed.  LOG 1."""

from arx_verifier.errors import ArxError, GrantError, UnavailableError


class NoteError(ArxError):
    """A note, checkpoint, proof or key text is malformed; nothing in it was trusted."""

    code = "malformed_log"


class TamperedError(ArxError):
    """Files or rows of the log differ from what was signed.

    Attributes:
        first: Index of the first altered record, or None if the files cannot show which one it is.
        last: The last index that it can have; equal to ``first`` if the files identify one record.
    """

    code = "tampered"
    status_hint = 500

    def __init__(self, message: str, first: int | None = None, last: int | None = None) -> None:
        super().__init__(message)
        self.first, self.last = first, first if last is None else last


class IncompleteError(ArxError):
    """A file or record that the answer needs is missing; nothing contradicts what was signed."""

    code = "incomplete"
    status_hint = 503


class DisputedError(GrantError):
    """The log has another record, or a loss, at the sequence of a sent record, which was refused.

    Attributes:
        sequence: The record's sequence in its run.
        leaf: The hash of the refused leaf.
    """

    code = "bad_batch"

    def __init__(self, message: str, sequence: int, leaf: bytes) -> None:
        super().__init__(message)
        self.sequence, self.leaf = sequence, leaf


class WitnessError(UnavailableError):
    """A witness did not cosign: it did not answer, or it refused."""

    code = "not_witnessed"
