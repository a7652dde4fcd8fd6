# SPDX-License-Identifier: Apache-2.0
"""Policies: a policy, or the first mistake with file and line."""

import re
from collections.abc import Iterator
from pathlib import Path

from arx_caps.mint.policy.model import Policy
from arx_verifier.errors import SettingsError

MAX_BYTES = 8_192
SAMPLE = Path(__file__).parents[3] / "arx_caps" / "mint" / "policy" / "sample_policy.toml"


def check(data: bytes) -> None:
    """Parse a policy; what is accepted is accepted again, with the same digest."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return
    mistake = ""
    try:
        policy = Policy.parse(text, "policy.toml")
    except SettingsError as error:
        mistake = str(error)
    assert mistake.startswith("policy.toml") or not mistake
    assert mistake or Policy.parse(text, "policy.toml").digest == policy.digest


def seeds() -> Iterator[bytes]:
    """Return the sample policy whole, and each of its tables."""
    sample = SAMPLE.read_text("utf-8")
    plain = re.sub(r"^#.*\n", "", sample, flags=re.MULTILINE)
    yield plain.encode()[:MAX_BYTES]
    yield b"a = " + b"1" * 5_000
    for table in re.split(r"\n(?=\[)", plain):
        yield table.encode()[:MAX_BYTES]
