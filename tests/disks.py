# SPDX-License-Identifier: Apache-2.0
"""Disks that are full, for tests of what must not be done without a record."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest


def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """Make a file system of a size, such as ``256k``, for a fixture, and take it away again."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this user may not mount a small file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)
