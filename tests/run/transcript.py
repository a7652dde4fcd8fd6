# SPDX-License-Identifier: Apache-2.0
"""Transcripts of unmodified programs under `arx run`, kept as files: what they printed, and what was recorded."""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from tests.run.page_realm import PageRealm
from tests.servers import until

FOLDER: Final = Path(__file__).with_name("transcripts")
_OTHER_EACH_TIME: Final = {
    r"/\S*/arx-run-\w+": "RUN",
    r"\b[0-9a-f]{40}\b": "ID",
    r"\b[0-9a-f]{7,12}\.\.[0-9a-f]{7,12}\b": "OLD..NEW",
    r"Chunk ID: \w+": "Chunk ID: ID",
    r"Wall time: [0-9.]+": "Wall time: TIME",
    r'"decision": "[^"]+"': '"decision": "ID"',
    r"Process Group PGID: \d+": "Process Group PGID: NUMBER",
}


def recorded(realm: PageRealm, last: str = "git.push effect effect") -> list[str]:
    """Return what the signed log has of the calls of git and of the model, each line once.

    Args:
        realm: Where the calls were made.
        last: What the log has at last.
    """
    lines = set[str]()

    def is_complete() -> bool:
        found = realm.arx("audit", "trail", "--limit", "200")["records"]
        named = [each for each in found if each.get("tool", "").startswith(("git.", "model."))]
        lines.update(f"log     {each['tool']} {each['outcome']} {each['code']}" for each in named)
        return f"log     {last}" in lines

    until(is_complete)
    return sorted(lines)


def shown(written: str) -> list[str]:
    """Return lines that a program wrote."""
    return [f"        {line}" for line in written.splitlines()]


def compare(name: str, folder: Path, lines: Iterable[str]) -> None:
    """Compare a transcript with the file of its name; with ARX_TRANSCRIPTS=write, write the file.

    Raises:
        AssertionError: The text is another one.
    """
    text = "\n".join(lines).replace(str(folder), "FOLDER")
    for pattern, stable in _OTHER_EACH_TIME.items():
        text = re.sub(pattern, stable, text)
    text = "".join(f"{line.rstrip()}\n" for line in text.splitlines())
    file = FOLDER / f"{name}.txt"
    if os.environ.get("ARX_TRANSCRIPTS") == "write":
        file.write_text(text, "utf-8")
    assert text == file.read_text("utf-8")
