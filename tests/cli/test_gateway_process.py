# SPDX-License-Identifier: Apache-2.0
"""The gateway beside a mint: an error reaches the operator in any case."""

from pathlib import Path

import pytest

from arx_caps.cli.gateway_process import GatewayProcess
from arx_caps.cli.place import Place
from arx_caps.cli.terminal import Console
from tests.servers import until


def test_a_file_that_cannot_be_used_is_reported_with_quiet_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is tried again until the operator has mended the file, so that silence would last for ever."""
    (tmp_path / "gateway.toml").write_text("[upstreams.orders]")
    console, written = Console(), []
    console.quiet = True
    process = GatewayProcess(tmp_path / "gateway.toml", Place(tmp_path), console)
    process.start()
    try:
        until(lambda: bool(written.append(capsys.readouterr().err) or "".join(written)))
    finally:
        process.stop()
    assert "arx: the gateway does not run: " in "".join(written)
    assert "upstreams" in "".join(written)
