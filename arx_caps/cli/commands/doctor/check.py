# SPDX-License-Identifier: Apache-2.0
"""The result of one check of ``arx doctor``; the other modules of this folder are the checks."""

from typing import NamedTuple


class Check(NamedTuple):
    """The result of one check.

    Attributes:
        name: The checked part.
        ok: Whether it is in order; None if that is unknown.
        found: Its state.
        mend: How to repair it, in the imperative; for what is in order, how to have more of it, or empty.
    """

    name: str
    ok: bool | None
    found: str
    mend: str = ""
