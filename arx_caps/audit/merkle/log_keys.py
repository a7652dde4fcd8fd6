# SPDX-License-Identifier: Apache-2.0
"""The keys that sign a log, one after the other.  LOG 1.12.

``key_change`` verifies how a reader comes from one to the next.
"""

from dataclasses import dataclass
from typing import NamedTuple, Self

from arx_caps.audit.merkle.errors import TamperedError
from arx_caps.audit.merkle.note import Note, VerifierKey


class Era(NamedTuple):
    """What one key of a log signs.

    Attributes:
        key: The key.
        last: The largest size that it signs; None for the newest key.
        change: The proof file of the record that announces the next key; None for the newest key, and after a theft.
    """

    key: VerifierKey
    last: int | None = None
    change: str | None = None


@dataclass(frozen=True, slots=True)
class LogKeys:
    """All keys of a log that a reader trusts, the oldest first.

    Attributes:
        eras: At least one, of one name, with rising sizes; the newest key comes last.
    """

    eras: tuple[Era, ...]

    @classmethod
    def of(cls, key: VerifierKey) -> Self:
        """Return the keys of a log whose key has not changed."""
        return cls((Era(key),))

    @property
    def key(self) -> VerifierKey:
        """The newest key."""
        return self.eras[-1].key

    def then(self, key: VerifierKey, last: int, change: str | None) -> Self:
        """Return the keys with a next one.

        Args:
            key: The next key.
            last: The largest size that the newest key has signed.
            change: The proof file that announces the next key; None after a theft.
        """
        return type(self)((*self.eras[:-1], Era(self.key, last, change), Era(key)))

    def signer_of(self, note: Note) -> VerifierKey:
        """Return the newest key with a signature line in a note, which is not verified; the newest without any."""
        for era in reversed(self.eras):
            if any(era.key.owns(signature) for signature in note.signatures):
                return era.key
        return self.key

    def require_turn(self, key: VerifierKey, size: int) -> None:
        """Require that a key signs checkpoints of a size.

        Args:
            key: One of the keys.
            size: The checkpoint's number of records.

        Raises:
            TamperedError: Another key signs it: this one may have been stolen since.
        """
        before = -1  # the largest size of the key before
        for era in self.eras:
            if era.key == key:
                if size <= before or (era.last is not None and size > era.last):
                    raise TamperedError(f"a checkpoint of {size} records is not signed by the key of its time")
                return
            before = -1 if era.last is None else era.last
