# SPDX-License-Identifier: Apache-2.0
"""What people read on a terminal: the transcripts of ``tests/cli/texts``, see ``transcripts``."""

from pathlib import Path

import pytest

from tests.cli.transcripts import TEXTS, offline, play, realm

OFFLINE = sorted((TEXTS / "offline").glob("*.txt"))
REALM = sorted((TEXTS / "realm").glob("*.txt"))


@pytest.mark.parametrize("file", OFFLINE, ids=lambda file: file.stem)
def test_texts_without_a_realm(file: Path, tmp_path: Path) -> None:
    """
    Results, refusals and mistakes of usage are written as the transcript has them.
    """
    text = file.read_text("utf-8")
    assert play(text, tmp_path, offline(tmp_path)) == text


@pytest.mark.slow
@pytest.mark.servers
def test_texts_with_a_realm(tmp_path: Path) -> None:
    """
    The same with a mint and a store, in the order of the files.
    """
    with realm(tmp_path) as environment:
        for file in REALM:
            text = file.read_text("utf-8")
            assert play(text, tmp_path, environment) == text, file.name
