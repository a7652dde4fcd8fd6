# SPDX-License-Identifier: Apache-2.0
"""Witnesses: cosign a log's checkpoints, serve a witness, ask one.  LOG 1.6."""

from typing import TYPE_CHECKING

from arx_verifier._door import open_door

if TYPE_CHECKING:
    from arx_caps.audit.witness.cosigners import Witnesses as Witnesses
    from arx_caps.audit.witness.server import serve as serve
    from arx_caps.audit.witness.witness import KEY_FILE as KEY_FILE
    from arx_caps.audit.witness.witness import Witness as Witness
else:
    open_door(__name__)
