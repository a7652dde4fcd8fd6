# SPDX-License-Identifier: Apache-2.0
"""Kill, freeze and thaw targets of a realm, and learn which verifiers confirmed it.  SPEC 10."""

from arx_caps.revocation.failover import Topology
from arx_caps.revocation.report import KillReport
from arx_caps.revocation.store import DEFAULT_LEASE_MS, DEFAULT_MAX_TTL_MS, RevocationStore
from arx_caps.revocation.targets import KINDS, Target, parse_target, parse_targets
from arx_caps.revocation.wire import (
    DIRECT,
    Bump,
    Header,
    OutcomeUnknownError,
    Registry,
    StoreEntry,
    StoreHistoryError,
    VerifierSeen,
)

__all__ = [
    "DEFAULT_LEASE_MS",
    "DEFAULT_MAX_TTL_MS",
    "DIRECT",
    "KINDS",
    "Bump",
    "Header",
    "KillReport",
    "OutcomeUnknownError",
    "Registry",
    "RevocationStore",
    "StoreEntry",
    "StoreHistoryError",
    "Target",
    "Topology",
    "VerifierSeen",
    "parse_target",
    "parse_targets",
]
