# SPDX-License-Identifier: Apache-2.0
"""As ``gateway_server``, with an upstream over stdio."""

import tempfile
from pathlib import Path
from typing import Any

from arx_verifier import Verifier
from tests.adapters.gateway_server import WHO, Gateway

__all__ = ["WHO", "make_app"]


def make_app(verifier: Verifier, ran: list[str], *_: Any, **options: Any) -> Any:
    """Return the application."""
    return Gateway(verifier.within(**options), ran, Path(tempfile.mkdtemp()) / "ran")
