# SPDX-License-Identifier: Apache-2.0
"""HTTP/1.1 by h11, in pure Python, where httptools cannot be installed."""

import sys

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from arx_caps.http.connections import BoundedProtocol


class BoundedH11(BoundedProtocol, H11Protocol):
    """uvicorn's h11 protocol, with bounds on connections."""

    def send_400_response(self, msg: str) -> None:
        """Answer with the status that h11 names."""
        # uvicorn passes the text alone, inside the handler of h11's error, which has the status.
        error = sys.exc_info()[1]
        self.refuse(error.error_status_hint if isinstance(error, h11.RemoteProtocolError) else 400, msg.rstrip("."))
