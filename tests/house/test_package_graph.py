# SPDX-License-Identifier: Apache-2.0
"""Imports flow one way: the trusted base knows nothing of what is built on it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
VERIFIER = ROOT / "verifier" / "arx_verifier"
MODULES = sorted(VERIFIER.rglob("*.py"))
CAPS = ROOT / "arx_caps"

# The verifier's packages, and its modules beside them: each imports only what stands before it.
VERIFIER_ORDER = """
    errors _native tls names limits jcs request
    constraints token revocation journal verification enforcement
    service testing
""".split()

# Each room of arx-caps imports only these others, and whatever it likes of arx_verifier.
ROOMS = {
    "durations": set(),
    "limits": set(),
    "http_client": set(),
    "_embedded_guard": set(),
    "embedded": {"_embedded_guard"},
    "keyfile": set(),
    "engines": set(),
    "jose": {"keyfile"},
    "realm": {"keyfile", "durations", "limits"},
    "revocation": set(),
    "audit": {"jose", "keyfile", "durations", "engines", "http_client"},
    "trail": set(),
    "drawing": {"trail"},
    "relay": set(),
    "agent": {"jose", "keyfile", "durations", "http_client"},
    "service": {"keyfile", "agent", "audit"},
    "mint": {
        "jose",
        "keyfile",
        "durations",
        "limits",
        "http_client",
        "engines",
        "realm",
        "revocation",
        "embedded",
        "audit",
    },
}
# The command line stands on all of them.
ROOMS["cli"] = {room for room in ROOMS if not room.startswith("_")} - {"limits", "engines"}

# The mint's packages, and its modules beside them: each imports only what stands before it.
MINT = CAPS / "mint"
MINT_ORDER = """
    db policy audit revocation keys rate_limit
    context identity tasks runtime
    api server
""".split()


def imported(path: Path) -> Iterator[str]:
    """Yield every imported module, function-level imports included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            yield node.module or ""
            if node.module in ("arx_verifier", "arx_caps"):
                yield from (f"{node.module}.{alias.name}" for alias in node.names)


def top_level(path: Path) -> Iterator[str]:
    """Yield the modules that are imported when this one is."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield (node.module or "").partition(".")[0]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(VERIFIER)))
def test_a_verifier_package_imports_only_from_below(path: Path) -> None:
    """
    No package of arx_verifier imports a later one, nor anything of arx_caps.
    """
    room = path.relative_to(VERIFIER).parts[0].removesuffix(".py")
    if room == "__init__":
        return
    assert room in VERIFIER_ORDER, f"{room} is new: give it its place in this test's list"
    below = VERIFIER_ORDER[: VERIFIER_ORDER.index(room) + 1]
    for module in imported(path):
        package, _, rest = module.partition(".")
        name = rest.partition(".")[0]
        assert package != "arx_caps", f"{path.name} imports {module}"
        if package == "arx_verifier" and name in VERIFIER_ORDER:
            assert name in below, f"{path.name} imports {module}, which stands above it"


def test_macaroon_and_caveats_do_not_know_each_other() -> None:
    """
    A token can be read, attenuated and passed on without knowing what its caveats mean.
    """
    assert "arx_verifier.token.caveats" not in set(imported(VERIFIER / "token" / "macaroon.py"))
    assert "arx_verifier.token.macaroon" not in set(imported(VERIFIER / "token" / "caveats.py"))


def room_of(path: Path) -> str:
    return path.relative_to(CAPS).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", sorted(CAPS.rglob("*.py")), ids=lambda path: str(path.relative_to(CAPS)))
def test_a_room_imports_only_its_neighbours(path: Path) -> None:
    """
    Agent and mint never meet but over HTTP; nothing imports the command line.
    """
    room = room_of(path)
    if room in ("__init__", "__main__"):
        return
    assert room in ROOMS, f"{room} is new: give it its place in this test's table"
    for module in imported(path):
        package, _, rest = module.partition(".")
        name = rest.partition(".")[0]
        if package == "arx_caps" and name and name != room:
            assert name in ROOMS[room], f"{path.relative_to(ROOT)} imports {module}"


def mint_place(module: str) -> int | None:
    """Return the place of a module's package, by the dotted name below the mint; None for one that is not listed."""
    package = module.partition(".")[0]
    return MINT_ORDER.index(package) if package in MINT_ORDER else None


@pytest.mark.parametrize("path", sorted(MINT.rglob("*.py")), ids=lambda path: str(path.relative_to(MINT)))
def test_a_package_of_the_mint_imports_only_from_below(path: Path) -> None:
    """
    The database knows no policy, the policy no context, a task no route; the database knows nothing of HTTP.
    """
    own = ".".join(path.relative_to(MINT).with_suffix("").parts).removesuffix(".__init__")
    if own == "__init__":
        return
    place = mint_place(own)
    assert place is not None, f"{own} is new: give its package a place in this test's list"
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("arx_caps.mint"):
            continue
        package = (node.module or "").removeprefix("arx_caps.mint").lstrip(".")
        for alias in node.names:
            other = mint_place(f"{package}.{alias.name}".lstrip("."))
            assert other is not None, f"{own} imports {alias.name} of the whole mint"
            assert other <= place, f"{own} imports {alias.name} of {package}, which stands above it"
    if own.partition(".")[0] == "db":
        assert not {"starlette", "uvicorn", "httpx2"} & {module.partition(".")[0] for module in imported(path)}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(VERIFIER)))
def test_the_trusted_base_needs_no_framework(path: Path) -> None:
    """
    Importing any module of the verifier loads no web framework and no HTTP client; redis only where it is followed.
    """
    forbidden = {"starlette", "uvicorn", "sqlalchemy", "httpx", "httpx2", "cryptography", "joserfc", "click"}
    assert not forbidden & {module.partition(".")[0] for module in imported(path)}
    if path.stem not in ("follower", "store_link", "store_url"):
        assert "redis" not in set(top_level(path))


@pytest.mark.parametrize("path", [*sorted(VERIFIER.rglob("*.py")), *sorted(CAPS.rglob("*.py"))], ids=str)
def test_a_file_holds_one_idea(path: Path) -> None:
    """
    Every file has its licence line and opens with what it decides.
    """
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# SPDX-License-Identifier: Apache-2.0\n")
    assert ast.get_docstring(ast.parse(text))


@pytest.mark.parametrize("path", sorted((ROOT / "examples").glob("*.py")), ids=lambda path: path.name)
def test_an_example_uses_the_public_api_alone(path: Path) -> None:
    """
    What a newcomer copies imports the front doors, and no module behind them.
    """
    nodes = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.ImportFrom)]
    ours = {str(node.module) for node in nodes if str(node.module).startswith("arx_")}
    assert ours <= {"arx_caps", "arx_caps.service", "arx_verifier"}
