# SPDX-License-Identifier: Apache-2.0
"""``arx gateway``, which also times each decision of a call: what the decision's share of the added time is.

python -m benchmarks.gateway.timed_gateway FILE prints ``{}`` when it serves, and at its end the times, us.
"""

import json
import sys
import time
from typing import Any

from arx_caps.gateway.serve import serve
from arx_verifier.enforcement.mcp.messages import McpMessage, Messages

_TIMES: list[float] = []


def main(file: str) -> None:
    """Serve until standard input ends, and print the times."""
    decide = Messages.decide

    async def timed(messages: Messages, message: McpMessage) -> Any:
        began = time.perf_counter()
        try:
            return await decide(messages, message)
        finally:
            _TIMES.append((time.perf_counter() - began) * 1e6)

    Messages.decide = timed  # type: ignore[method-assign]
    serve(file, on_ready=lambda _: print("{}", flush=True), until_eof=True)
    print(json.dumps(_TIMES), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
