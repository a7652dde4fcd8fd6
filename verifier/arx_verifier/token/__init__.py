# SPDX-License-Identifier: Apache-2.0
"""The token: bytes, chain, caveats, keys, call proofs and discharges.  SPEC 2 to 9."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_verifier.token.call_proof import MAX_AGE_MS as MAX_AGE_MS
    from arx_verifier.token.call_proof import MAX_AHEAD_MS as MAX_AHEAD_MS
    from arx_verifier.token.call_proof import STAMP as STAMP
    from arx_verifier.token.call_proof import CallSigner as CallSigner
    from arx_verifier.token.call_proof import PresentedCall as PresentedCall
    from arx_verifier.token.call_proof import call_digest as call_digest
    from arx_verifier.token.call_proof import http_digest as http_digest
    from arx_verifier.token.call_proof import http_fields as http_fields
    from arx_verifier.token.call_proof import tool_digest as tool_digest
    from arx_verifier.token.call_proof import tool_fields as tool_fields
    from arx_verifier.token.caveats import MAX_FRESH_MS as MAX_FRESH_MS
    from arx_verifier.token.caveats import MAX_HOPS as MAX_HOPS
    from arx_verifier.token.caveats import MAX_INTEGER as MAX_INTEGER
    from arx_verifier.token.caveats import Caveat as Caveat
    from arx_verifier.token.caveats import count_members as count_members
    from arx_verifier.token.caveats import read_caveat as read_caveat
    from arx_verifier.token.caveats import spend_caveats as spend_caveats
    from arx_verifier.token.discharge import MAX_DISCHARGES as MAX_DISCHARGES
    from arx_verifier.token.discharge import ThirdPartyCaveat as ThirdPartyCaveat
    from arx_verifier.token.discharge import bind as bind
    from arx_verifier.token.discharge import binding as binding
    from arx_verifier.token.discharge import caveat_key as caveat_key
    from arx_verifier.token.discharge import issue_discharge as issue_discharge
    from arx_verifier.token.discharge import join as join
    from arx_verifier.token.discharge import require_discharge as require_discharge
    from arx_verifier.token.discharge import unseal as unseal
    from arx_verifier.token.holder import HolderKey as HolderKey
    from arx_verifier.token.holder import audience_public as audience_public
    from arx_verifier.token.holder import call_message as call_message
    from arx_verifier.token.holder import check_public as check_public
    from arx_verifier.token.holder import has_signed as has_signed
    from arx_verifier.token.holder import hop_message as hop_message
    from arx_verifier.token.holder import is_point as is_point
    from arx_verifier.token.holder import unbound as unbound
    from arx_verifier.token.keyring import DEFAULT_MAX_TTL_MS as DEFAULT_MAX_TTL_MS
    from arx_verifier.token.keyring import KEY_BYTES as KEY_BYTES
    from arx_verifier.token.keyring import KeyRing as KeyRing
    from arx_verifier.token.keyring import PreparedKey as PreparedKey
    from arx_verifier.token.macaroon import ABOUT as ABOUT
    from arx_verifier.token.macaroon import HOP_BYTES as HOP_BYTES
    from arx_verifier.token.macaroon import IAT_AHEAD_MS as IAT_AHEAD_MS
    from arx_verifier.token.macaroon import ID_BYTES as ID_BYTES
    from arx_verifier.token.macaroon import MAX_ABOUT_CHARS as MAX_ABOUT_CHARS
    from arx_verifier.token.macaroon import MINT_AUDIENCE as MINT_AUDIENCE
    from arx_verifier.token.macaroon import CaveatLike as CaveatLike
    from arx_verifier.token.macaroon import Identifier as Identifier
    from arx_verifier.token.macaroon import Macaroon as Macaroon
    from arx_verifier.token.macaroon import OperatorIdentifier as OperatorIdentifier
    from arx_verifier.token.macaroon import about as about
    from arx_verifier.token.macaroon import read_identifier as read_identifier
    from arx_verifier.token.targets import MAX_TARGET_BYTES as MAX_TARGET_BYTES
    from arx_verifier.token.targets import agent_targets as agent_targets
    from arx_verifier.token.targets import subject_target as subject_target
    from arx_verifier.token.wire import BUNDLE_PREFIX as BUNDLE_PREFIX
    from arx_verifier.token.wire import JOINT as JOINT
    from arx_verifier.token.wire import MAX_CREDENTIAL_CHARS as MAX_CREDENTIAL_CHARS
    from arx_verifier.token.wire import TOKEN_PREFIX as TOKEN_PREFIX
    from arx_verifier.token.wire import ThirdPartyPacket as ThirdPartyPacket
    from arx_verifier.token.wire import bytes_of as bytes_of
    from arx_verifier.token.wire import cut_out as cut_out
    from arx_verifier.token.wire import sha256_of as sha256_of
    from arx_verifier.token.wire import text_of as text_of
else:
    open_door(__name__)
