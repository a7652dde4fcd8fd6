# SPDX-License-Identifier: Apache-2.0
"""A tool service as a client of the mint: enrolment, its key, its audience keys, shipped records.  LOG 2, CONTROL 3."""

from arx_caps.service.enrolment import Invitation as Invitation
from arx_caps.service.enrolment import join_service as join_service
from arx_caps.service.refresh import KeyRefresher as KeyRefresher
from arx_caps.service.refresh import Status as Status
from arx_caps.service.shipper import open_shipper as open_shipper
from arx_caps.service.token_exchange import exchange_token as exchange_token
