# SPDX-License-Identifier: Apache-2.0
"""The token: bytes, chain, caveats, keys, call proofs and discharges.  SPEC 2 to 9."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_verifier.token.call_proof import (
        MAX_AGE_MS,
        MAX_AHEAD_MS,
        STAMP,
        CallSigner,
        PresentedCall,
        call_digest,
        http_digest,
        http_fields,
        tool_digest,
        tool_fields,
    )
    from arx_verifier.token.caveats import (
        MAX_FRESH_MS,
        MAX_HOPS,
        MAX_INTEGER,
        Caveat,
        count_members,
        read_caveat,
        spend_caveats,
    )
    from arx_verifier.token.discharge import (
        MAX_DISCHARGES,
        ThirdPartyCaveat,
        bind,
        binding,
        caveat_key,
        issue_discharge,
        join,
        require_discharge,
        unseal,
    )
    from arx_verifier.token.holder import (
        HolderKey,
        audience_public,
        call_message,
        check_public,
        has_signed,
        hop_message,
        is_point,
        unbound,
    )
    from arx_verifier.token.keyring import DEFAULT_MAX_TTL_MS, KEY_BYTES, KeyRing, PreparedKey
    from arx_verifier.token.macaroon import (
        ABOUT,
        HOP_BYTES,
        IAT_AHEAD_MS,
        ID_BYTES,
        MAX_ABOUT_CHARS,
        MINT_AUDIENCE,
        CaveatLike,
        Identifier,
        Macaroon,
        OperatorIdentifier,
        about,
        read_identifier,
    )
    from arx_verifier.token.targets import MAX_TARGET_BYTES, agent_targets, subject_target
    from arx_verifier.token.wire import (
        BUNDLE_PREFIX,
        JOINT,
        MAX_CREDENTIAL_CHARS,
        TOKEN_PREFIX,
        ThirdPartyPacket,
        bytes_of,
        cut_out,
        sha256_of,
        text_of,
    )
else:
    __getattr__, __dir__ = open_door(
        __name__,
        {
            "call_proof": (
                "CallSigner MAX_AGE_MS MAX_AHEAD_MS PresentedCall STAMP call_digest http_digest http_fields "
                "tool_digest tool_fields"
            ),
            "caveats": "Caveat MAX_FRESH_MS MAX_HOPS MAX_INTEGER count_members read_caveat spend_caveats",
            "discharge": (
                "MAX_DISCHARGES ThirdPartyCaveat bind binding caveat_key issue_discharge join require_discharge unseal"
            ),
            "holder": ("HolderKey audience_public call_message check_public has_signed hop_message is_point unbound"),
            "keyring": "PreparedKey DEFAULT_MAX_TTL_MS KEY_BYTES KeyRing",
            "macaroon": (
                "ABOUT CaveatLike HOP_BYTES IAT_AHEAD_MS ID_BYTES Identifier MAX_ABOUT_CHARS MINT_AUDIENCE "
                "Macaroon OperatorIdentifier about read_identifier"
            ),
            "targets": "MAX_TARGET_BYTES agent_targets subject_target",
            "wire": (
                "BUNDLE_PREFIX JOINT MAX_CREDENTIAL_CHARS TOKEN_PREFIX ThirdPartyPacket bytes_of cut_out "
                "sha256_of text_of"
            ),
        },
    )

__all__ = [
    "ABOUT",
    "BUNDLE_PREFIX",
    "DEFAULT_MAX_TTL_MS",
    "HOP_BYTES",
    "IAT_AHEAD_MS",
    "ID_BYTES",
    "JOINT",
    "KEY_BYTES",
    "MAX_ABOUT_CHARS",
    "MAX_AGE_MS",
    "MAX_AHEAD_MS",
    "MAX_CREDENTIAL_CHARS",
    "MAX_DISCHARGES",
    "MAX_FRESH_MS",
    "MAX_HOPS",
    "MAX_INTEGER",
    "MAX_TARGET_BYTES",
    "MINT_AUDIENCE",
    "STAMP",
    "TOKEN_PREFIX",
    "CallSigner",
    "Caveat",
    "CaveatLike",
    "HolderKey",
    "Identifier",
    "KeyRing",
    "Macaroon",
    "OperatorIdentifier",
    "PreparedKey",
    "PresentedCall",
    "ThirdPartyCaveat",
    "ThirdPartyPacket",
    "about",
    "agent_targets",
    "audience_public",
    "bind",
    "binding",
    "bytes_of",
    "call_digest",
    "call_message",
    "caveat_key",
    "check_public",
    "count_members",
    "cut_out",
    "has_signed",
    "hop_message",
    "http_digest",
    "http_fields",
    "is_point",
    "issue_discharge",
    "join",
    "read_caveat",
    "read_identifier",
    "require_discharge",
    "sha256_of",
    "spend_caveats",
    "subject_target",
    "text_of",
    "tool_digest",
    "tool_fields",
    "unbound",
    "unseal",
]
