# SPDX-License-Identifier: Apache-2.0
"""Measure how a decision's time grows with what can grow: ``make bench-growth``, or ``python -m benchmarks.growth``.

Writes ``benchmarks/results/growth.json`` and what docs/performance.md shows of it.  About a minute.  A curve has a fit,
a + b n^p, and how many times the least the most is; what is flat has no exponent worth a name.
"""

import argparse
import functools
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from arx_verifier.constraints.constraint import Constraint
from arx_verifier.constraints.rule import Rule
from arx_verifier.request import AccessRequest
from arx_verifier.revocation.epoch import UnsafeLocalEpochs
from arx_verifier.token import call_proof
from arx_verifier.token.caveats import Caveat
from arx_verifier.token.macaroon import Macaroon
from arx_verifier.verification.verifier import Verifier
from benchmarks import page
from benchmarks.kill_mass import target
from benchmarks.measure import Batch, about, each, race, save, say
from benchmarks.rows import Verifiers, allow, signing
from benchmarks.world import AT, INCARNATION, KEY, REQUEST, TOOL, handed, identifier

Point = tuple[int, float]
FLAT: Final = 1.35  # the most is so many times the least, and there is no more to fit than the machine's own moods


class Fit(NamedTuple):
    """How a curve grows.

    Attributes:
        exponent: The p of a + b n^p.
        factor: The most, in times the least.
    """

    exponent: float
    factor: float

    @property
    def words(self) -> str:
        """For people."""
        return "flat" if self.factor < FLAT else f"n^{self.exponent:.2f}"


def fit(points: Sequence[Point]) -> Fit:
    """Fit a + b n^p, with a and b not negative, by least squares of the relative error; p in steps of 0.05."""
    values = [value for _, value in points]
    found = min((_error(points, step / 20), step / 20) for step in range(1, 61))
    return Fit(found[1], max(values) / min(values))


def _error(points: Sequence[Point], power: float) -> float:
    xs, ys = [float(n) ** power for n, _ in points], [y for _, y in points]
    weights = [1 / y**2 for y in ys]
    total = sum(weights)
    mean_x = sum(w * x for w, x in zip(weights, xs, strict=True)) / total
    mean_y = sum(w * y for w, y in zip(weights, ys, strict=True)) / total
    spread = sum(w * (x - mean_x) ** 2 for w, x in zip(weights, xs, strict=True)) or 1.0
    slope = sum(w * (x - mean_x) * (y - mean_y) for w, x, y in zip(weights, xs, ys, strict=True)) / spread
    slope = max(0.0, slope)
    base = max(0.0, mean_y - slope * mean_x)
    return sum(w * (base + slope * x - y) ** 2 for w, x, y in zip(weights, xs, ys, strict=True))


class Curve(NamedTuple):
    """One quantity that grows, and what is timed at each of its sizes.

    Attributes:
        title: What grows.
        log: Whether its sizes are far apart.
        sizes: Its sizes.
        make: Size to what is timed there, by name.
    """

    title: str
    log: bool
    sizes: tuple[int, ...]
    make: Callable[[Verifiers, int], dict[str, Batch]]


def decisions(made: Verifiers, parent: Macaroon, args: dict[str, Any], **more: Any) -> dict[str, Batch]:
    """Time a call of one parent, seen and at first sight."""
    request, fields = AccessRequest(TOOL, args, AT, "192.0.2.7"), call_proof.tool_fields(TOOL, args)
    signer = call_proof.CallSigner(parent, "orders")

    def work(checked: Verifier, text: str) -> None:
        assert checked.decide(text, request).code == "ok"

    def make(count: int) -> list[str]:
        return [signer.sign(fields, AT) for _ in range(count)]

    seen, new = made.make(**more), made.make(cache_bytes=0, **more)
    return {
        "parent seen": each(functools.partial(work, seen), make),
        "first sight": each(functools.partial(work, new), make),
    }


def delegations(made: Verifiers, count: int) -> dict[str, Batch]:
    """Each attenuates one argument; sixteen that restate five constraints have no room in a token."""
    return decisions(made, handed(count, restate=False, depth=16), dict(REQUEST.args))


def rules(made: Verifiers, count: int) -> dict[str, Batch]:
    """All are of the tool that is called, and only the last holds; the caveat is too long to be kept at each size.

    A short one is read once for all tokens: the curve would begin with what was met before, and go on with what is new.
    """
    allowed = tuple(Rule(tool=TOOL, args={"n": number}) for number in range(count))
    others = tuple(f"acme/{'x' * 50}/{number:02}" for number in range(10))
    return decisions(made, _minted(Caveat(allow=allowed, delegate_to=others)), {"n": count - 1})


def arguments(made: Verifiers, size: int) -> dict[str, Batch]:
    """One long text, looked at by a glob and a length, digested for its proof and for its record."""
    rule = Rule(tool=TOOL, args={"note": Constraint(glob="x*", max_length=1 << 20)})
    return decisions(made, _minted(Caveat(allow=(rule,))), {"note": "x" * size})


def kills(made: Verifiers, count: int) -> dict[str, Batch]:
    """So many kills beside a token that none of them ends."""
    epochs = UnsafeLocalEpochs(INCARNATION)
    for first in range(0, count, 1_000):
        epochs.kill(*(target(number) for number in range(first, min(count, first + 1_000))))
    parent = handed(3, born=(INCARNATION, epochs.seq))
    return decisions(made, parent, dict(REQUEST.args), epochs=epochs)


def parents(made: Verifiers, count: int) -> dict[str, Batch]:
    """So many parents of one delegation in the cache; of these a thousand at most call, in no order."""
    checked = made.make(cache_bytes=1 << 34)
    stride, chosen = max(1, count // 1000), []
    for number in range(count):
        parent = handed(1, number)
        assert checked.decide(signing(parent)(1)[0], REQUEST).code == "ok"
        if number % stride == 0:
            chosen.append(parent)
    order = [chosen[number * 619 % len(chosen)] for number in range(len(chosen))]
    for text in signing(*order)(len(order)):
        assert checked.decide(text, REQUEST).code == "ok"
    return {"parent seen": each(allow(checked), signing(*order))}


CURVES: Final = (
    Curve("delegations", False, (0, 1, 2, 4, 8, 12, 16), delegations),
    Curve("rules in `allow`", False, (1, 10, 25, 50, 75, 100), rules),
    Curve("characters of an argument", False, (16, 4096, 16384, 32768, 49152, 65536), arguments),
    Curve("live kills", True, (0, 10, 1_000, 100_000, 1_000_000), kills),
    Curve("parents in the cache", True, (1, 10, 100, 1_000, 10_000, 100_000), parents),
)
THREADS: Final = (1, 2, 4, 8, 16, 32, 64)


def _minted(caveat: Caveat) -> Macaroon:
    return Macaroon.mint(identifier(), key=KEY, realm="acme", caveats=(caveat,))


def measure(curve: Curve, made: Verifiers, seconds: float) -> Iterator[dict[str, Any]]:
    """Time all sizes of a curve in turns."""
    contenders = {}
    for size in curve.sizes:
        for name, batch in curve.make(made, size).items():
            contenders[name, size] = batch
    times = race({f"{name}/{size}": batch for (name, size), batch in contenders.items()}, seconds)
    for name in dict.fromkeys(name for name, _ in contenders):
        points = [(size, round(times[f"{name}/{size}"], 3)) for size in curve.sizes]
        yield _row(curve.title, name, points, log=curve.log)


def _row(title: str, name: str, points: Sequence[Point], *, log: bool) -> dict[str, Any]:
    found = fit(points)
    return {
        "what": title,
        "name": name,
        "log": log,
        "points": [list(point) for point in points],
        "fit": found.words,
        "factor": round(found.factor, 2),
    }


def threads(made: Verifiers, seconds: float) -> dict[str, Any]:
    """One verifier shared by so many threads: processor time of the process for one decision, us."""
    points: list[Point] = []
    for count in THREADS:
        checked, each_one = made.make(), max(20, round(40_000 * seconds / count))
        work = allow(checked)
        mine = [signing(handed(3, number)) for number in range(count)]
        for sign in mine:
            for text in sign(2):
                work(text)
        texts = [sign(each_one) for sign in mine]
        ready = threading.Barrier(count)

        def run(mine: Sequence[str], ready: threading.Barrier = ready, work: Callable[[str], None] = work) -> None:
            ready.wait()
            for text in mine:
                work(text)

        running = [threading.Thread(target=run, args=(mine,)) for mine in texts]
        began = time.process_time()
        for thread in running:
            thread.start()
        for thread in running:
            thread.join()
        points.append((count, round((time.process_time() - began) / count / each_one * 1e6, 3)))
    return _row("threads", "parent seen", points, log=True)


def main() -> None:
    """Run it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.growth", description="Measure growth.")
    parser.add_argument("--seconds", type=float, default=0.5, metavar="S", help="time for each point")
    options = parser.parse_args()
    found, results = about("arx-verifier", "msgspec"), list[dict[str, Any]]()
    for curve in CURVES:
        say(curve.title)
        with tempfile.TemporaryDirectory(prefix="arx") as folder:
            made = Verifiers(Path(folder))
            results += measure(curve, made, options.seconds)
            made.close()
    say("threads")
    with tempfile.TemporaryDirectory(prefix="arx") as folder:
        made = Verifiers(Path(folder))
        results.append(threads(made, options.seconds))
        made.close()
    found["curves"] = results
    save("growth", found)
    page.write()
    sys.stdout.write(page.growth(found) + "\n")


if __name__ == "__main__":
    main()
