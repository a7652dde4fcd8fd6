# SPDX-License-Identifier: Apache-2.0
"""Witnesses: cosign a log's checkpoints, serve a witness, ask one.  LOG 1.6."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_caps.audit.witness.cosigners import Witnesses
    from arx_caps.audit.witness.server import serve
    from arx_caps.audit.witness.witness import KEY_FILE, Witness
else:
    __getattr__, __dir__ = open_door(
        __name__,
        {
            "cosigners": "Witnesses",
            "server": "serve",
            "witness": "KEY_FILE Witness",
        },
    )

__all__ = [
    "KEY_FILE",
    "Witness",
    "Witnesses",
    "serve",
]
