# SPDX-License-Identifier: Apache-2.0
"""Verify the log's database against the signed files, rebuild it from them, prune and erase.  LOG 1.9 to 1.11."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_caps.audit.integrity.check import Answered as Answered
    from arx_caps.audit.integrity.check import Rows as Rows
    from arx_caps.audit.integrity.check import check_batches as check_batches
    from arx_caps.audit.integrity.check import check_rows as check_rows
    from arx_caps.audit.integrity.check import rows_of as rows_of
    from arx_caps.audit.integrity.erasures import ERASED_KIND as ERASED_KIND
    from arx_caps.audit.integrity.repair import reindex as reindex
    from arx_caps.audit.integrity.retention import erase as erase
    from arx_caps.audit.integrity.retention import index_at as index_at
    from arx_caps.audit.integrity.retention import prune as prune
else:
    open_door(__name__)
