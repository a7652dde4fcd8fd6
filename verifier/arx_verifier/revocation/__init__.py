# SPDX-License-Identifier: Apache-2.0
"""The revocation epoch: kills and freezes, and the follower that keeps a verifier's view current.  SPEC 10."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_verifier.revocation.epoch import (
        FOREVER_NS,
        FREEZING,
        KILLING,
        SKEW_MS,
        Epochs,
        EpochState,
        EpochTable,
        Lease,
        UnsafeLocalEpochs,
        boot_clock,
    )
    from arx_verifier.revocation.follower import Follower
    from arx_verifier.revocation.follower_core import Following, StoreQuestion
    from arx_verifier.revocation.history import NOWHERE, UNKNOWN, HistoryPlace, chain_after, new_incarnation
    from arx_verifier.revocation.relay_link import (
        RELAY_VERSION,
        Down,
        Frames,
        Hello,
        Leave,
        Part,
        Probe,
        Push,
        Refusal,
        RelayAnswer,
        RelayLink,
        RelayPage,
        RelayScan,
        Up,
        frame,
        is_relay,
    )
    from arx_verifier.revocation.store_link import (
        MAX_ANSWER,
        OK,
        REGRESSED,
        RESYNC,
        Crowd,
        EpochEntry,
        Late,
        Link,
        StoreAnswer,
    )
    from arx_verifier.revocation.store_url import (
        Address,
        CertificateError,
        FinderLoginError,
        keeps_nonces,
        open_client,
        refused_login,
        without_login,
    )
else:
    __getattr__, __dir__ = open_door(
        __name__,
        {
            "epoch": (
                "EpochState EpochTable Epochs FOREVER_NS FREEZING KILLING Lease SKEW_MS UnsafeLocalEpochs boot_clock"
            ),
            "follower": "Follower",
            "follower_core": "Following StoreQuestion",
            "history": "HistoryPlace NOWHERE UNKNOWN chain_after new_incarnation",
            "relay_link": (
                "Down Frames Hello Leave Part Probe Push RELAY_VERSION Refusal RelayLink RelayPage RelayScan "
                "RelayAnswer Up frame is_relay"
            ),
            "store_link": "Crowd EpochEntry Late Link MAX_ANSWER OK REGRESSED RESYNC StoreAnswer",
            "store_url": (
                "Address CertificateError FinderLoginError keeps_nonces open_client refused_login without_login"
            ),
        },
    )

__all__ = [
    "FOREVER_NS",
    "FREEZING",
    "KILLING",
    "MAX_ANSWER",
    "NOWHERE",
    "OK",
    "REGRESSED",
    "RELAY_VERSION",
    "RESYNC",
    "SKEW_MS",
    "UNKNOWN",
    "Address",
    "CertificateError",
    "Crowd",
    "Down",
    "EpochEntry",
    "EpochState",
    "EpochTable",
    "Epochs",
    "FinderLoginError",
    "Follower",
    "Following",
    "Frames",
    "Hello",
    "HistoryPlace",
    "Late",
    "Lease",
    "Leave",
    "Link",
    "Part",
    "Probe",
    "Push",
    "Refusal",
    "RelayAnswer",
    "RelayLink",
    "RelayPage",
    "RelayScan",
    "StoreAnswer",
    "StoreQuestion",
    "UnsafeLocalEpochs",
    "Up",
    "boot_clock",
    "chain_after",
    "frame",
    "is_relay",
    "keeps_nonces",
    "new_incarnation",
    "open_client",
    "refused_login",
    "without_login",
]
