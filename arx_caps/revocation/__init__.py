# SPDX-License-Identifier: Apache-2.0
"""Kill, freeze and thaw targets of a realm, and learn which verifiers confirmed it.  SPEC 10."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_caps.revocation.failover import Topology as Topology
    from arx_caps.revocation.report import KillReport as KillReport
    from arx_caps.revocation.store import RevocationStore as RevocationStore
    from arx_caps.revocation.targets import KINDS as KINDS
    from arx_caps.revocation.targets import Target as Target
    from arx_caps.revocation.targets import names_person as names_person
    from arx_caps.revocation.targets import parse_target as parse_target
    from arx_caps.revocation.targets import parse_targets as parse_targets
    from arx_caps.revocation.wire import DIRECT as DIRECT
    from arx_caps.revocation.wire import GONE_MS as GONE_MS
    from arx_caps.revocation.wire import Bump as Bump
    from arx_caps.revocation.wire import Header as Header
    from arx_caps.revocation.wire import OutcomeUnknownError as OutcomeUnknownError
    from arx_caps.revocation.wire import ProofUsedError as ProofUsedError
    from arx_caps.revocation.wire import StoreEntry as StoreEntry
    from arx_caps.revocation.wire import StoreHistoryError as StoreHistoryError
    from arx_caps.revocation.wire import UsedProof as UsedProof
    from arx_caps.revocation.wire import VerifierSeen as VerifierSeen
    from arx_caps.revocation.wire import VerifierState as VerifierState
    from arx_caps.revocation.wire import count_states as count_states
    from arx_caps.revocation.wire import state_of as state_of
else:
    open_door(__name__)
