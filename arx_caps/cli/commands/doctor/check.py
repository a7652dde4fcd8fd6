# SPDX-License-Identifier: Apache-2.0
"""One finding of ``arx doctor``."""

from typing import NamedTuple


class Check(NamedTuple):
    """What was found about one thing.

    Attributes:
        name: The thing.
        ok: Whether it is as it should be; None when that is unknown.
        found: What it is.
        mend: What to do about it; empty when it is well.
    """

    name: str
    ok: bool | None
    found: str
    mend: str = ""
