# SPDX-License-Identifier: Apache-2.0
"""The decision whether a presented token allows a call; the only code that builds a grant.  SPEC 11."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_verifier.verification.authenticate import prove as prove
    from arx_verifier.verification.chain_state import ProvenChain as ProvenChain
    from arx_verifier.verification.freshness import readiness as readiness
    from arx_verifier.verification.freshness import recheck as recheck
    from arx_verifier.verification.freshness import recheck_pause as recheck_pause
    from arx_verifier.verification.grant import Grant as Grant
    from arx_verifier.verification.nonces import MemoryNonces as MemoryNonces
    from arx_verifier.verification.nonces import NonceStore as NonceStore
    from arx_verifier.verification.nonces import RedisNonces as RedisNonces
    from arx_verifier.verification.reasons import Refused as Refused
    from arx_verifier.verification.reasons import missing_discharge as missing_discharge
    from arx_verifier.verification.reasons import out_of_time as out_of_time
    from arx_verifier.verification.reasons import too_early as too_early
    from arx_verifier.verification.reasons import too_late as too_late
    from arx_verifier.verification.reasons import too_new as too_new
    from arx_verifier.verification.service_limits import LimitsSource as LimitsSource
    from arx_verifier.verification.service_limits import ServiceLimits as ServiceLimits
    from arx_verifier.verification.service_limits import read_limits as read_limits
    from arx_verifier.verification.verifier import Screened as Screened
    from arx_verifier.verification.verifier import Verifier as Verifier
    from arx_verifier.verification.watch import ENFORCED as ENFORCED
    from arx_verifier.verification.watch import GuardOptions as GuardOptions
    from arx_verifier.verification.watch import ServerOptions as ServerOptions
    from arx_verifier.verification.watch import Watch as Watch
    from arx_verifier.verification.watch import WatchedCall as WatchedCall
    from arx_verifier.verification.watch import ended_by as ended_by
    from arx_verifier.verification.watch import read_watch as read_watch
else:
    open_door(__name__)
