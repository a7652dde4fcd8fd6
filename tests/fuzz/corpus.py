# SPDX-License-Identifier: Apache-2.0
"""The corpus: one file a target, with the seeds and what a fuzzer once found.

``python -m tests.fuzz.corpus`` writes the seeds anew from the vectors, and keeps the rest.  ``--add NAME FILE…`` adds
inputs, such as one that broke a law.
"""

import argparse
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from tests.fuzz import targets

FOLDER: Final = Path(__file__).parent / "corpus"
VECTORS: Final = Path(__file__).parents[1] / "vectors" / "tokens"
MOST: Final = 64  # seeds of a target


def vectors() -> Iterator[dict[str, Any]]:
    """Return the vectors of tokens, in the order of their names."""
    for path in sorted(VECTORS.glob("*.json")):
        yield json.loads(path.read_text("utf-8"))


def read(name: str) -> dict[str, list[bytes]]:
    """Return the inputs of a target: ``seeds`` and ``found``."""
    path = FOLDER / f"{name}.json"
    texts = json.loads(path.read_text("utf-8")) if path.exists() else {}
    return {part: [text.encode("latin-1") for text in texts.get(part, ())] for part in ("seeds", "found")}


def inputs(name: str) -> list[bytes]:
    """Return all inputs of a target."""
    return [data for part in read(name).values() for data in part]


def write(name: str, found: Iterable[bytes] = ()) -> None:
    """Write the file of a target: its seeds as they are now, and what was found, with these inputs added."""
    target = targets.load(name)
    seeds = list(dict.fromkeys(target.seeds()))
    # Evenly over all of them, so that each kind of vector has some.
    seeds = seeds[:: -(-len(seeds) // MOST)]
    kept = {"seeds": seeds, "found": list(dict.fromkeys([*read(name)["found"], *found]))}
    texts = {part: [data.decode("latin-1") for data in each] for part, each in kept.items()}
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_text(json.dumps(texts, indent=1) + "\n", "utf-8")


def main() -> None:
    """Write the corpus."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.corpus", description=__doc__)
    parser.add_argument("--add", nargs="+", metavar=("NAME", "FILE"), help="a target, and files to add to its corpus")
    asked = parser.parse_args()
    if asked.add:
        write(asked.add[0], [Path(file).read_bytes() for file in asked.add[1:]])
        return
    for name in targets.NAMES:
        write(name)


if __name__ == "__main__":
    main()
