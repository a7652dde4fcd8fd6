# SPDX-License-Identifier: Apache-2.0
"""Kill, freeze and thaw targets of a realm, and learn which verifiers confirmed it.  SPEC 10."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_caps.revocation.failover import Topology
    from arx_caps.revocation.report import KillReport
    from arx_caps.revocation.states import GONE_MS, VerifierState, count_states, state_of
    from arx_caps.revocation.store import DEFAULT_LEASE_MS, DEFAULT_MAX_TTL_MS, RevocationStore
    from arx_caps.revocation.targets import KINDS, Target, names_person, parse_target, parse_targets
    from arx_caps.revocation.wire import (
        DIRECT,
        Bump,
        Header,
        OutcomeUnknownError,
        ProofUsedError,
        Registry,
        StoreEntry,
        StoreHistoryError,
        UsedProof,
        VerifierSeen,
    )
else:
    # On use: commands that ask the mint alone need no client of the store.
    __getattr__, __dir__ = open_door(
        __name__,
        {
            "failover": "Topology",
            "report": "KillReport",
            "states": "GONE_MS VerifierState count_states state_of",
            "store": "DEFAULT_LEASE_MS DEFAULT_MAX_TTL_MS RevocationStore",
            "targets": "KINDS Target names_person parse_target parse_targets",
            "wire": (
                "Bump DIRECT Header OutcomeUnknownError ProofUsedError Registry StoreEntry StoreHistoryError UsedProof"
                " VerifierSeen"
            ),
        },
    )

__all__ = [
    "DEFAULT_LEASE_MS",
    "DEFAULT_MAX_TTL_MS",
    "DIRECT",
    "GONE_MS",
    "KINDS",
    "Bump",
    "Header",
    "KillReport",
    "OutcomeUnknownError",
    "ProofUsedError",
    "Registry",
    "RevocationStore",
    "StoreEntry",
    "StoreHistoryError",
    "Target",
    "Topology",
    "UsedProof",
    "VerifierSeen",
    "VerifierState",
    "count_states",
    "names_person",
    "parse_target",
    "parse_targets",
    "state_of",
]
