# SPDX-License-Identifier: Apache-2.0
"""Strict type checkers take a protected function as the documents call it."""

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = """
from typing import assert_type

from arx_verifier import Verifier
from arx_verifier.enforcement.base.guard import protect


def serve(verifier: Verifier, token: str) -> None:
    @protect(verifier, tool="orders.get")
    def get(order_id: str) -> dict[str, int]:
        return {order_id: 1}

    assert_type(get(order_id="A-1", arx_token=token), dict[str, int])


async def serve_async(verifier: Verifier, token: str) -> None:
    @protect(verifier, tool="orders.put")
    async def put(order_id: str, amount: int = 1) -> str:
        return order_id * amount

    assert_type(await put(order_id="A-1", arx_token=token), str)


def serve_method(verifier: Verifier, token: str) -> None:
    class Orders:
        @protect(verifier, tool="orders.get")
        def get(self, order_id: str) -> str:
            return order_id

    assert_type(Orders().get(order_id="A-1", arx_token=token), str)
"""


@pytest.mark.slow
@pytest.mark.servers
def test_mypy_takes_the_documented_call(tmp_path: Path) -> None:
    """With ``arx_token``, and with what the function returns; a wrong use of that is still found."""

    def check(text: str) -> str:
        (tmp_path / "example.py").write_text(text)
        command = [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(tmp_path / "cache"), "example.py"]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=540, check=False).stdout

    assert check(EXAMPLE).startswith("Success")
    assert "[assert-type]" in check(EXAMPLE.replace("arx_token=token), str)", "arx_token=token), int)"))
