# SPDX-License-Identifier: Apache-2.0
"""Forms of texts that several files of settings have."""

import ipaddress
from typing import Annotated, TypeAlias

from arx_caps.settings.toml_file import text_that


def _is_network(text: str) -> bool:
    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


Network: TypeAlias = Annotated[str, text_that(_is_network, "a network such as 10.0.0.0/8")]
