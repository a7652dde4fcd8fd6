# SPDX-License-Identifier: Apache-2.0
"""What people read on a terminal: the transcripts of ``tests/cli/texts``, see ``transcripts``."""

from pathlib import Path

import pytest

from tests.cli.transcripts import TEXTS, offline, play

OFFLINE = sorted((TEXTS / "offline").glob("*.txt"))


@pytest.mark.parametrize("file", OFFLINE, ids=lambda file: file.stem)
def test_texts_without_a_realm(file: Path, tmp_path: Path) -> None:
    """
    Results, refusals and mistakes of usage are written as the transcript has them.
    """
    text = file.read_text("utf-8")
    assert play(text, tmp_path, offline(tmp_path)) == text
