# SPDX-License-Identifier: Apache-2.0
"""How a command ends: the exit codes, and which error ends with which.

A script reads the number, a person the line on stderr.  A message begins small and has no full stop; what to do about
it is a line of its own, a hint.
"""

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from arx_verifier.errors import ArxError

OK: Final = 0
DENIED: Final = 1  # a check failed: denied, tampered, refused by the policy
USAGE: Final = 2  # the command line or a file is not as it must be
INCOMPLETE: Final = 3  # done in part, or not known to be done
UNAUTHENTICATED: Final = 4  # the mint does not know who asks
UNREACHABLE: Final = 5  # the mint or the store did not answer
INTERNAL: Final = 70  # a bug (EX_SOFTWARE of sysexits.h)
INTERRUPTED: Final = 130  # Ctrl-C, as shells count it


class Stop(Exception):  # noqa: N818 - it also ends commands that did their work, in part
    """End the command with a code and a line on stderr.

    Args:
        message: What is wrong; small first letter, no full stop.
        exit_code: One of this module's numbers.
        hint: What to do about it, or None.
        code: A stable code for scripts.
    """

    def __init__(self, message: str, exit_code: int = USAGE, *, hint: str | None = None, code: str = "usage") -> None:
        super().__init__(message)
        self.exit_code, self.hint, self.code = exit_code, hint, code


def exit_of(error: "ArxError") -> int:
    """Return the exit code of an error of ARx."""
    from arx_verifier.errors import AccessError, GrantError, TokenError, UnavailableError  # `arx --help` needs none

    if isinstance(error, UnavailableError):
        return UNREACHABLE
    if isinstance(error, TokenError | AccessError | GrantError):
        return DENIED
    return USAGE
