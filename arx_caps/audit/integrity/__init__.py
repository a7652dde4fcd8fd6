# SPDX-License-Identifier: Apache-2.0
"""Verify the log's database against the signed files, rebuild it from them, prune and erase.  LOG 1.9 to 1.11."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_caps.audit.integrity.check import Rows, check_batches, check_rows, rows_of
    from arx_caps.audit.integrity.erasures import ERASED_KIND
    from arx_caps.audit.integrity.repair import reindex
    from arx_caps.audit.integrity.retention import erase, index_at, prune
else:
    __getattr__, __dir__ = open_door(
        __name__,
        {
            "check": "Rows check_batches check_rows rows_of",
            "erasures": "ERASED_KIND",
            "repair": "reindex",
            "retention": "erase index_at prune",
        },
    )

__all__ = [
    "ERASED_KIND",
    "Rows",
    "check_batches",
    "check_rows",
    "erase",
    "index_at",
    "prune",
    "reindex",
    "rows_of",
]
