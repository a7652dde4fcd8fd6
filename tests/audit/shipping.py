# SPDX-License-Identifier: Apache-2.0
"""A receiver, and shippers to it."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from arx_caps.audit.shipping.shipper import Shipper
from tests.audit.receiver import REALM, Receiver

KIB = 1024
Make = Callable[..., Shipper]


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def shipper(receiver: Receiver) -> Iterator[Make]:
    """Makes shippers to the receiver, and ends them."""
    made: list[Shipper] = []

    def make(folder: Path, **more: Any) -> Shipper:
        about = {"audience": "orders", "realm": REALM, "issuer": receiver.issuer, "key": receiver.key}
        made.append(Shipper(folder, **about | more))
        return made[-1]

    yield make
    for each in made:
        each.close()


def spoil_record(path: Path) -> None:
    """Change a bit of the record of ``tool.2`` in a journal's file."""
    raw = bytearray(path.read_bytes())
    raw[raw.index(b"tool.2") + 5] ^= 1
    path.write_bytes(raw)


def tools(numbers: range) -> list[str]:
    return [f"tool.{number}" for number in numbers]
