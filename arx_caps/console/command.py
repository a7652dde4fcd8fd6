# SPDX-License-Identifier: Apache-2.0
"""The ``arx`` command that a page shows, which its reader may copy into a shell."""

import shlex
from collections.abc import Mapping


def command(words: str, options: Mapping[str, str | None]) -> str:
    """Return a command line of ``arx``.

    Args:
        words: Its fixed words, after ``arx``.
        options: Its options by name, such as ``agent``; empty ones and None are left out.
    """
    return " ".join([f"arx {words}", *(f"--{name} {quoted(value)}" for name, value in options.items() if value)])


def quoted(text: str) -> str:
    """Return a text as one word of a shell, whatever a page's address made of it."""
    # A pasted line end or escape sequence would act at once, and other invisible characters could hide words.
    return shlex.quote("".join(each if each.isprintable() else "?" for each in text))
