# SPDX-License-Identifier: Apache-2.0
"""``arx audit``: ask the audit log, check it, copy it, prune it.  LOG 1, 3."""
