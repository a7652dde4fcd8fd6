# SPDX-License-Identifier: Apache-2.0
"""A tool service as a client of the mint: its own key, its audience keys, shipped records.  SPEC 18, 21."""

from arx_caps.service.exchanging import exchange_token
from arx_caps.service.joining import Invitation, join_service
from arx_caps.service.refresh import KeyRefresher, Status
from arx_caps.service.shipping import open_shipper

__all__ = ["Invitation", "KeyRefresher", "Status", "exchange_token", "join_service", "open_shipper"]
