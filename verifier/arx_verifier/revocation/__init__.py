# SPDX-License-Identifier: Apache-2.0
"""The revocation epoch: kills and freezes, and the follower that keeps a verifier's view current.  SPEC 10."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_verifier.revocation.epoch import FOREVER_NS as FOREVER_NS
    from arx_verifier.revocation.epoch import FREEZING as FREEZING
    from arx_verifier.revocation.epoch import KILLING as KILLING
    from arx_verifier.revocation.epoch import SKEW_MS as SKEW_MS
    from arx_verifier.revocation.epoch import Epochs as Epochs
    from arx_verifier.revocation.epoch import EpochState as EpochState
    from arx_verifier.revocation.epoch import EpochTable as EpochTable
    from arx_verifier.revocation.epoch import Lease as Lease
    from arx_verifier.revocation.epoch import RegistryName as RegistryName
    from arx_verifier.revocation.epoch import UnsafeLocalEpochs as UnsafeLocalEpochs
    from arx_verifier.revocation.epoch import boot_clock as boot_clock
    from arx_verifier.revocation.epoch import show_until as show_until
    from arx_verifier.revocation.follower import Follower as Follower
    from arx_verifier.revocation.follower_core import Following as Following
    from arx_verifier.revocation.follower_core import StoreQuestion as StoreQuestion
    from arx_verifier.revocation.history import NOWHERE as NOWHERE
    from arx_verifier.revocation.history import UNKNOWN as UNKNOWN
    from arx_verifier.revocation.history import HistoryPlace as HistoryPlace
    from arx_verifier.revocation.history import chain_after as chain_after
    from arx_verifier.revocation.history import new_incarnation as new_incarnation
    from arx_verifier.revocation.loop_link import ServerFacts as ServerFacts
    from arx_verifier.revocation.password import FILE_SUFFIX as FILE_SUFFIX
    from arx_verifier.revocation.password import MAX_BYTES as MAX_BYTES
    from arx_verifier.revocation.password import Password as Password
    from arx_verifier.revocation.password import PasswordFile as PasswordFile
    from arx_verifier.revocation.password import find_password as find_password
    from arx_verifier.revocation.password import one_line as one_line
    from arx_verifier.revocation.password import read_now as read_now
    from arx_verifier.revocation.password import read_secret_file as read_secret_file
    from arx_verifier.revocation.relay_link import RELAY_VERSION as RELAY_VERSION
    from arx_verifier.revocation.relay_link import Down as Down
    from arx_verifier.revocation.relay_link import Frames as Frames
    from arx_verifier.revocation.relay_link import Hello as Hello
    from arx_verifier.revocation.relay_link import Leave as Leave
    from arx_verifier.revocation.relay_link import Part as Part
    from arx_verifier.revocation.relay_link import Probe as Probe
    from arx_verifier.revocation.relay_link import Push as Push
    from arx_verifier.revocation.relay_link import Refusal as Refusal
    from arx_verifier.revocation.relay_link import RelayAnswer as RelayAnswer
    from arx_verifier.revocation.relay_link import RelayLink as RelayLink
    from arx_verifier.revocation.relay_link import RelayPage as RelayPage
    from arx_verifier.revocation.relay_link import RelayScan as RelayScan
    from arx_verifier.revocation.relay_link import Up as Up
    from arx_verifier.revocation.relay_link import frame as frame
    from arx_verifier.revocation.relay_link import is_relay as is_relay
    from arx_verifier.revocation.store_client import StoreClient as StoreClient
    from arx_verifier.revocation.store_client import UnfitError as UnfitError
    from arx_verifier.revocation.store_client import read_fields as read_fields
    from arx_verifier.revocation.store_cluster import BUCKETS as BUCKETS
    from arx_verifier.revocation.store_cluster import KeptFor as KeptFor
    from arx_verifier.revocation.store_cluster import KeptStore as KeptStore
    from arx_verifier.revocation.store_cluster import StoreCluster as StoreCluster
    from arx_verifier.revocation.store_cluster import UnconfirmedError as UnconfirmedError
    from arx_verifier.revocation.store_cluster import bucket_of as bucket_of
    from arx_verifier.revocation.store_cluster import cannot_call as cannot_call
    from arx_verifier.revocation.store_cluster import slot_of as slot_of
    from arx_verifier.revocation.store_link import MAX_ANSWER as MAX_ANSWER
    from arx_verifier.revocation.store_link import OK as OK
    from arx_verifier.revocation.store_link import REGRESSED as REGRESSED
    from arx_verifier.revocation.store_link import RESYNC as RESYNC
    from arx_verifier.revocation.store_link import Crowd as Crowd
    from arx_verifier.revocation.store_link import EpochEntry as EpochEntry
    from arx_verifier.revocation.store_link import Late as Late
    from arx_verifier.revocation.store_link import Link as Link
    from arx_verifier.revocation.store_link import StoreAnswer as StoreAnswer
    from arx_verifier.revocation.store_steps import BlockingCall as BlockingCall
    from arx_verifier.revocation.store_steps import Steps as Steps
    from arx_verifier.revocation.store_steps import by_steps as by_steps
    from arx_verifier.revocation.store_steps import has_steps as has_steps
    from arx_verifier.revocation.store_steps import run as run
    from arx_verifier.revocation.store_steps import run_async as run_async
    from arx_verifier.revocation.store_steps import steps_of as steps_of
    from arx_verifier.revocation.store_url import Address as Address
    from arx_verifier.revocation.store_url import CertificateError as CertificateError
    from arx_verifier.revocation.store_url import FinderLoginError as FinderLoginError
    from arx_verifier.revocation.store_url import FoundShard as FoundShard
    from arx_verifier.revocation.store_url import PasswordFileError as PasswordFileError
    from arx_verifier.revocation.store_url import is_cluster as is_cluster
    from arx_verifier.revocation.store_url import keeps_nonces as keeps_nonces
    from arx_verifier.revocation.store_url import refused_login as refused_login
    from arx_verifier.revocation.store_url import without_login as without_login
else:
    open_door(__name__)
