# SPDX-License-Identifier: Apache-2.0
"""Guard random applications, send them random requests, and compare what ran with what was judged."""

import argparse
import importlib.metadata
import importlib.util
import json
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from arx_verifier import SettingsError
from tests.routes.confusion import ConfusedError
from tests.routes.number_cases import FRAMEWORKS, check


def run(connect: Callable[[int], Any], first: int, count: int, requests: int) -> Counter[str]:
    """Try applications.

    Args:
        connect: Returns the client of a seed's application and of its twin.
        first: The seed of the first.
        count: How many.
        requests: How many requests to each.

    Returns:
        How many started, ran, were refused.

    Raises:
        ConfusedError: One ran what was not judged, or refused without a reason.
    """
    seen: Counter[str] = Counter()
    reasons: list[str] = []
    for seed in range(first, first + count):
        try:
            client = connect(seed)
        except SettingsError as error:
            seen["did not start"] += 1
            reasons.append(f"seed {seed}: {error}")
            continue
        try:
            client.check(requests)
        except ConfusedError as error:
            raise ConfusedError(f"seed {seed}: {error}") from error
        seen["applications"] += 1
        seen += client.seen
    # A test that starts or runs next to nothing would find nothing.
    if seen["applications"] < count * 0.7 or seen["ran"] < seen["applications"] / 2:
        raise AssertionError(f"too little ran: {seen}, {reasons[:5]}")
    sys.stderr.write("".join(f"{reason:.160}\n" for reason in reasons))
    return seen


def main(arguments: Sequence[str] | None = None) -> None:
    """Run it with the framework that is installed."""
    parser = argparse.ArgumentParser(prog="python -m tests.routes", description="Guard random applications.")
    parser.add_argument("--count", type=int, default=200, metavar="N", help="applications [200]")
    parser.add_argument("--first", type=int, default=1, metavar="SEED", help="the first one's seed [1]")
    parser.add_argument("--requests", type=int, default=20, metavar="N", help="requests to each [20]")
    options = parser.parse_args(arguments)
    names = ("fastapi", "starlette", "django", "flask", "werkzeug")
    found = [name for name in names if importlib.util.find_spec(name) is not None]
    if "fastapi" in found:
        from tests.routes.fastapi_cases import CASES

        for case in CASES:
            case()
    for name in found:
        if name in FRAMEWORKS:
            check(name)
    seen = run(_client(found), options.first, options.count, options.requests)
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in found)
    sys.stdout.write(f"{versions}: {json.dumps(seen)}; 0 confused\n")


def _client(found: Sequence[str]) -> Callable[[int], Any]:
    """Return what makes the client of a seed.  An environment has one framework."""
    if "starlette" in found:
        from tests.routes.asgi_client import ASGIClient

        return ASGIClient
    from tests.routes.wsgi_client import WSGIClient

    if "django" in found:
        from tests.routes.django_trees import DjangoTree

        return lambda seed: WSGIClient(seed, DjangoTree)
    from tests.routes.flask_trees import FlaskTree

    return lambda seed: WSGIClient(seed, FlaskTree)


if __name__ == "__main__":
    main()
