# SPDX-License-Identifier: Apache-2.0
"""Decide random pairs of token and call by the verifiers of two source trees, and list every difference.

``python -m tests.fuzz.differential FORMER NEW`` exits with 1 if NEW grants what FORMER refuses, or if a difference is
not one of ``--expect``.  A change of the specification names its differences in CHANGELOG.md.
"""

import argparse
import json
import os
import random
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, Final

BATCH: Final = 200  # pairs on their way at once; their text stays below what two pipes hold together
SHOWN: Final = 2  # examples of each kind of difference
Pair = tuple[int, str, dict[str, Any]]  # the verifier's view, the token, the request


def answer_lines() -> None:
    """Decide each line of the standard input; the verifier is the one that is first on the path."""
    from arx_verifier.journal.decision import InMemoryDecisions
    from arx_verifier.request import AccessRequest, HttpCall
    from arx_verifier.revocation.epoch import FOREVER_NS, EpochTable, Lease
    from arx_verifier.token.keyring import KeyRing
    from arx_verifier.verification.nonces import MemoryNonces
    from arx_verifier.verification.verifier import Verifier

    world = json.loads(sys.stdin.readline())
    keys = KeyRing({kid: bytes.fromhex(key) for kid, key in world["keys"].items()}, realm="acme", max_ttl_ms=86_400_000)
    verifiers, decisions = [], InMemoryDecisions(clock=lambda: world["at"])
    for incarnation, applied, kills, freezes in world["views"]:
        epochs = EpochTable()
        epochs.adopt(incarnation, applied, kills, freezes)
        epochs.renew(incarnation, applied, Lease(FOREVER_NS, FOREVER_NS, FOREVER_NS))
        verifiers.append(Verifier(audience="orders", keys=keys, epochs=epochs, decisions=decisions))
    print("ready", flush=True)
    for line in sys.stdin:
        made = []
        for view, token, asked in json.loads(line):
            http = asked.pop("http", None)
            if http is not None:
                http = HttpCall(http[0], http[1], bytes.fromhex(http[2]))
            verifier = verifiers[view]
            # A pair that one of the verifiers allows spends its names: no later pair may find them spent.
            verifier.nonces = MemoryNonces(now_ms=world["at"] - 60_000)
            decision = verifier.decide(token, AccessRequest(**asked, http=http))
            decisions.decisions.clear()
            failures = [list(failure) for failure in decision.all_failures()]
            made.append(["grant" if decision.allowed else decision.code, failures])
        print(json.dumps(made), flush=True)


class Subject:
    """The verifier of a source tree, in a process of its own.

    Args:
        tree: The tree, with the folder ``verifier``.
        world: Keys and views.
    """

    def __init__(self, tree: Path, world: dict[str, Any]) -> None:
        package = tree.resolve() / "verifier"
        if not (package / "arx_verifier").is_dir():
            raise SystemExit(f"{tree}: expected a source tree with verifier/arx_verifier")
        # Without compiled code, which only one of the trees may have.
        environment = os.environ | {"ARX_PURE": "1", "PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"}
        command = [sys.executable, str(Path(__file__).resolve()), "--answer"]
        self._process = subprocess.Popen(
            command, cwd=tree, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._send(json.dumps(world))
        self._receive()

    def _pipes(self) -> tuple[IO[str], IO[str]]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdin, self._process.stdout

    def _send(self, line: str) -> None:
        pipe = self._pipes()[0]
        pipe.write(line + "\n")
        pipe.flush()

    def _receive(self) -> str:
        line = self._pipes()[1].readline()
        if not line:
            raise SystemExit(f"the verifier ended with {self._process.wait()}")
        return line

    def decide(self, line: str) -> list[Any]:
        """Return code and failures of each pair of a line."""
        self._send(line)
        return list(json.loads(self._receive()))

    def close(self) -> None:
        """End the process."""
        self._pipes()[0].close()
        self._process.wait(timeout=60)


def compare(trees: tuple[Path, Path], pairs: Iterator[Pair], world: dict[str, Any]) -> Iterator[tuple[Pair, Any, Any]]:
    """Yield each pair with both results, as code and failures."""
    former, new = (Subject(tree, world) for tree in trees)
    try:
        batch: list[Pair] = []
        for pair in pairs:
            batch.append(pair)
            if len(batch) == BATCH:
                line = json.dumps(batch)
                yield from zip(batch, former.decide(line), new.decide(line), strict=True)
                batch = []
        line = json.dumps(batch)
        yield from zip(batch, former.decide(line), new.decide(line), strict=True)
    finally:
        former.close()
        new.close()


def main() -> None:
    """Run it.

    Raises:
        SystemExit: A difference is wider, or was not expected.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.differential", description=__doc__)
    parser.add_argument("former", type=Path, metavar="FORMER", help="source tree of the former verifier")
    parser.add_argument("new", type=Path, metavar="NEW", help="source tree of the new one")
    parser.add_argument("--pairs", type=int, default=100_000, metavar="N", help="number of pairs [100000]")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="the pairs are those of this seed [1]")
    parser.add_argument(
        "--expect", action="append", default=[], metavar="CODE=CODE", help="a former and a new code that may differ"
    )
    parser.add_argument("--keep", type=Path, metavar="FILE", help="write every difference to it, a line of JSON each")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")
    asked = parser.parse_args()
    from tests.fuzz.random_calls import WORLD, random_pairs

    outcomes, kinds = Counter[str](), Counter[str]()
    examples: dict[str, list[Any]] = {}
    pairs = random_pairs(random.Random(asked.seed), asked.pairs)
    kept = asked.keep.open("w") if asked.keep else None
    for number, (pair, one, other) in enumerate(compare((asked.former, asked.new), pairs, WORLD), 1):
        outcomes[other[0]] += 1
        if one != other:
            kind = f"{one[0]}={other[0]}" if one[0] != other[0] else f"{one[0]}: other failures"
            kinds[kind] += 1
            difference = {"kind": kind, "pair": pair, "former": one, "new": other}
            if len(examples.setdefault(kind, [])) < SHOWN:
                examples[kind].append(difference)
            if kept is not None:
                print(json.dumps(difference), file=kept, flush=True)
        if not asked.json and number % 50_000 == 0:
            print(f"{number:,} pairs, {kinds.total()} differ", flush=True)
    wrong = [kind for kind in kinds if kind.endswith("=grant") or kind not in asked.expect]
    result = {"pairs": asked.pairs, "seed": asked.seed, "outcomes": dict(outcomes.most_common())}
    result |= {"differences": dict(kinds.most_common()), "unexpected": wrong, "examples": examples}
    if asked.json:
        print(json.dumps(result))
    else:
        show(result)
    sys.exit(bool(wrong))


def show(result: dict[str, Any]) -> None:
    """Print a result for people."""
    print(f"{result['pairs']:,} pairs of seed {result['seed']}")
    print(", ".join(f"{code} {times:,}" for code, times in result["outcomes"].items()))
    for kind, times in result["differences"].items():
        mark = "UNEXPECTED" if kind in result["unexpected"] else "expected"
        print(f"{times:>8,}  {kind}  {mark}")
        for example in result["examples"][kind] if kind in result["unexpected"] else ():
            print(f"          {json.dumps(example)[:2_000]}")
    print(f"{sum(result['differences'].values()):,} differ, {len(result['unexpected'])} kinds unexpected")


if __name__ == "__main__":
    if sys.argv[1:] == ["--answer"]:
        answer_lines()
    else:
        main()
