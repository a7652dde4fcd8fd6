# SPDX-License-Identifier: Apache-2.0
"""The exit codes, and the exception that ends a command with one.

A message is one line on stderr, ``<what failed>: <expected>, got <value>``; a hint, in the imperative, follows it.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from arx_verifier.errors import ArxError

OK: Final = 0
DENIED: Final = 1  # a check failed: denied, tampered, refused by the policy
USAGE: Final = 2  # the command line or a file is invalid
INCOMPLETE: Final = 3  # done in part, not done yet (`arx apply --check`), or the outcome is unknown
UNAUTHENTICATED: Final = 4  # the mint could not authenticate the caller
UNREACHABLE: Final = 5  # the mint or the store did not answer, or an address cannot be listened at yet
INTERNAL: Final = 70  # a bug (EX_SOFTWARE of sysexits.h)
INTERRUPTED: Final = 130  # Ctrl-C, as shells count it


class Stop(Exception):  # noqa: N818 - it also ends commands that did part of their work
    """End the command with a code and a line on stderr.

    Args:
        message: What failed, what was expected and what was there; small first letter, no full stop.
        exit_code: One of this module's codes.
        hint: What to do next, in the imperative; or None.
        code: A stable code for scripts.
        further: Further messages of the same kind, such as all mistakes of a file.
    """

    def __init__(
        self,
        message: str,
        exit_code: int = USAGE,
        *,
        hint: str | None = None,
        code: str = "usage",
        further: Sequence[object] = (),
    ) -> None:
        super().__init__(message)
        self.exit_code, self.hint, self.code, self.further = exit_code, hint, code, further


def exit_of(error: "ArxError") -> int:
    """Return the exit code of an error of ARx."""
    # Imported on use: `arx --help` needs none of it.
    from arx_verifier.errors import AccessError, GrantError, TokenError, UnavailableError

    if isinstance(error, UnavailableError) or error.code == "not_listening":
        return UNREACHABLE
    if isinstance(error, TokenError | AccessError | GrantError):
        return DENIED
    return USAGE
