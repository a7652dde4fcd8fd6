# SPDX-License-Identifier: Apache-2.0
"""A tool service's dealings with the mint: it enrols a key of its own, and keeps its audience keys fresh.  SPEC 21."""

from arx_caps.service.joining import Invitation, join_service
from arx_caps.service.refresh import KeyRefresher, Status

__all__ = ["Invitation", "KeyRefresher", "Status", "join_service"]
