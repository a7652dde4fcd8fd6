# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with a log: its form, its content, or that something of it is not there.  SPEC 17."""

from arx_verifier.errors import ArxError, GrantError, UnavailableError


class NoteError(ArxError):
    """A note, checkpoint, proof or key text is not of its form; nothing in it was believed."""

    code = "malformed_log"


class TamperedError(ArxError):
    """What is shown is not what was signed.

    Attributes:
        first: Index of the first record that is not as it was logged, or None where the files cannot tell.
        last: The last index that it can be; equal to ``first`` where the files name one record.
    """

    code = "tampered"
    status_hint = 500

    def __init__(self, message: str, first: int | None = None, last: int | None = None) -> None:
        super().__init__(message)
        self.first, self.last = first, first if last is None else last


class IncompleteError(ArxError):
    """Nothing contradicts what was signed, but something that the answer needs is not there."""

    code = "incomplete"
    status_hint = 503


class DisputedError(GrantError):
    """A record comes for a place of its run at which the log has another one, or a loss; it was not taken.

    Attributes:
        sequence: Its place.
        leaf: The hash of its leaf.
    """

    code = "bad_batch"

    def __init__(self, message: str, sequence: int, leaf: bytes) -> None:
        super().__init__(message)
        self.sequence, self.leaf = sequence, leaf


class WitnessError(UnavailableError):
    """A witness did not cosign: it did not answer, or it refused."""

    code = "not_witnessed"
