# SPDX-License-Identifier: Apache-2.0
"""What a draft begins with: a policy that allows every call of a service, and a service that records arguments."""

import json
from pathlib import Path

BROAD = """
[audience.{name}]
origins = ["{origin}"]
[session]
agents = ["acme/**"]
ttl = "1h"
[task.all]
agents = ["acme/**"]
ttl = "1h"
audience = ["{name}"]
allow = [{{ tool = "{name}.*", any = true }}]
"""


def write_broad_policy(file: Path, name: str, origin: str) -> None:
    """Write a policy by which the realm's agents may call every tool of a service."""
    file.write_text(BROAD.format(name=name, origin=origin))


def record_arguments(file: Path, name: str) -> None:
    """Have a service record the arguments of all its tools, from its next start on."""
    file.write_text(json.dumps(json.loads(file.read_text()) | {"record_arguments": [f"{name}.*"]}))
