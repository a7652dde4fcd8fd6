# SPDX-License-Identifier: Apache-2.0
"""The packages, their order, and the front doors for users.  A newcomer may read this first to learn the house.

``arx_verifier`` is the trusted base and knows nothing of ``arx_caps``, nor of a framework.  An import that runs against
the order fails here.
"""

import ast
import functools
import importlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import arx_caps
from tests.house.doors import exports_of, imported_names

ROOT = Path(__file__).resolve().parents[2]
VERIFIER, CAPS = ROOT / "verifier" / "arx_verifier", ROOT / "arx_caps"

# Each imports only what is before it.
VERIFIER_ORDER = """
    _door _version clock errors _platform refusal_text _native tls limits names addresses jcs request
    amounts constraints token upkeep revocation journal metrics ledger verification enforcement
    service memory testing integrations
""".split()
VERIFIER_ROOMS = {path.parent.name for path in VERIFIER.glob("[a-z]*/__init__.py")}

# Each package of arx_caps imports only these others, which are before it, and what it likes of arx_verifier.
CAPS_IMPORTS: dict[str, set[str]] = {
    "_embedded_guard": set(),
    "credentials": set(),
    "http": set(),
    "installation": set(),
    "isolation": set(),
    "relay": {"http"},
    "revocation": set(),
    "settings": set(),
    "agent": {"credentials", "http", "settings"},
    "database": {"installation"},
    "embedded": {"_embedded_guard", "installation"},
    "mcp": {"http"},
    "text": {"settings"},
    "audit": {"credentials", "database", "http"},
    "connect": {"agent", "http", "mcp"},
    "hook": {"agent", "http"},
    "memory": {"agent"},
    "demo": {"agent", "isolation", "memory"},
    "integrations": {"agent", "memory"},
    "mint": {"audit", "credentials", "database", "embedded", "http", "revocation", "settings", "text"},
    "service": {"agent", "audit", "credentials"},
    "console": {"audit", "mint", "revocation", "settings", "text"},
    "gateway": {"agent", "credentials", "http", "installation", "isolation", "mcp", "service", "settings"},
    "run": {"agent", "credentials", "gateway", "http", "isolation", "settings"},
    "cli": {
        "agent",
        "audit",
        "connect",
        "console",
        "credentials",
        "database",
        "demo",
        "embedded",
        "gateway",
        "hook",
        "http",
        "installation",
        "mint",
        "relay",
        "revocation",
        "run",
        "service",
        "settings",
        "text",
    },
}

# The packages of the mint, and its modules beside them: each imports only what is before it.
MINT_ORDER = """
    db policy html audit revocation keys backup notifications rate_limit documents
    context identity login tasks connections drafts approvals oauth runtime
    api server
""".split()

# The packages of the audit log: each imports only what is before it.
AUDIT_ORDER = "merkle witness shipping ingest store integrity query".split()

# The packages by which users' code takes names; the product's own code names the module of each.
FRONT_DOORS = ("arx_verifier", "arx_verifier.memory", "arx_caps.agent", "arx_caps.service", "arx_caps.memory")

# Folders of more than 16 modules, and why.
LARGE = {"arx_caps/cli/commands": "a file is a noun of the command line"}

FOREIGN = {"starlette", "uvicorn", "sqlalchemy", "httpx", "httpx2", "cryptography", "joserfc", "click"}


def product(*folders: Path) -> list[Path]:
    """Every module, without a front door."""
    fronts = {folder / name for folder in (VERIFIER, CAPS) for name in ("__init__.py", "__main__.py")}
    return sorted(path for folder in folders for path in folder.rglob("*.py") if path not in fronts)


@functools.cache  # a dozen tests read each file
def imports_of(path: Path) -> list[tuple[str, ...]]:
    """The dotted name of everything imported, in parts; imports in functions and for types included."""
    found: list[tuple[str, ...]] = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += (tuple(alias.name.split(".")) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.module
            assert node.level == 0, f"{path}: imports are absolute"
            found += ((*node.module.split("."), alias.name) for alias in node.names)
    return found


def package_of(path: Path, root: Path) -> str:
    return path.relative_to(root).parts[0].removesuffix(".py")


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def for_each(paths: Iterable[Path]) -> Callable[[Callable[[Path], None]], Callable[[], None]]:
    """Make one test of a check of each file, which names every file that fails: a test for each takes far longer."""

    def decorated(check: Callable[[Path], None]) -> Callable[[], None]:
        def test() -> None:
            failed = {}
            for path in paths:
                try:
                    check(path)
                except AssertionError as error:
                    failed[name_of(path)] = str(error)
            assert not failed

        test.__doc__ = check.__doc__
        return test

    return decorated


def functions_of(paths: Iterable[Path]) -> dict[str, list[str]]:
    """Every function and method, with the modules that have one of the name; those of Python's own names left out."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("__"):
                found[node.name].append(name_of(path))
    return found


@for_each(product(VERIFIER))
def test_the_trusted_base_imports_only_from_below(path: Path) -> None:
    """
    No package of arx_verifier imports a later one or anything of arx_caps; an adapter alone imports its framework.
    """
    package = package_of(path, VERIFIER)
    assert package in VERIFIER_ORDER, f"{package} is new: give it its place in VERIFIER_ORDER"
    below = VERIFIER_ORDER[: VERIFIER_ORDER.index(package) + 1]
    for first, *rest in imports_of(path):
        assert first not in ({"arx_caps"} if package == "integrations" else {"arx_caps", *FOREIGN}), f"imports {first}"
        if first == "arx_verifier":
            assert rest[0] in below, f"imports {rest[0]}, which is above"


def test_the_verifier_in_typescript_has_the_same_order() -> None:
    """
    A room of both verifiers is at one place in both orders; ``graph.test.ts`` enforces the one of TypeScript.
    """
    source = (ROOT / "typescript" / "verifier" / "test" / "graph.test.ts").read_text(encoding="utf-8")
    written = re.search(r"const ORDER = `(.*?)`", source, re.DOTALL)
    assert written, "no ORDER in graph.test.ts"
    rooms = ["jcs" if room == "json" else room for room in written[1].split() if room != "index"]
    assert len(rooms) > 10
    assert [room for room in VERIFIER_ORDER if room in rooms] == rooms


@for_each(product(VERIFIER))
def test_redis_is_loaded_where_it_is_followed(path: Path) -> None:
    """
    Importing a module of the verifier loads redis in six of them alone.
    """
    body = ast.parse(path.read_text(encoding="utf-8")).body
    loaded = {alias.name for node in body if isinstance(node, ast.Import) for alias in node.names}
    loaded |= {node.module or "" for node in body if isinstance(node, ast.ImportFrom)}
    if path.stem not in ("follower", "loop_link", "store_client", "store_cluster", "store_link", "store_url"):
        assert "redis" not in {module.partition(".")[0] for module in loaded}


def test_rooms_stay_small() -> None:
    """
    A folder has 16 modules at most, and the top of arx_caps few loose files, rooms and arrows between them.
    """
    folders = {path.parent for path in product(VERIFIER, CAPS)}
    sizes = {name_of(folder): len(list(folder.glob("*.py"))) for folder in folders}
    assert {name: size for name, size in sizes.items() if size > 16 and name not in LARGE} == {}
    assert {name for name in LARGE if sizes[name] <= 16} == set(), "a reason that no folder needs"
    assert len(list(CAPS.glob("*.py"))) <= 6
    rooms = {package_of(path, CAPS) for path in product(CAPS)}
    assert len(rooms) <= 25
    assert sum(map(len, CAPS_IMPORTS.values())) <= 90


def test_macaroon_and_caveats_do_not_know_each_other() -> None:
    """
    A token can be read, attenuated and passed on without knowing what its caveats mean.
    """
    for own, other in (("macaroon", "caveats"), ("caveats", "macaroon")):
        imported = set(imports_of(VERIFIER / "token" / f"{own}.py"))
        assert not {parts for parts in imported if parts[:3] == ("arx_verifier", "token", other)}


@for_each([*sorted(VERIFIER.rglob("*.py")), *sorted(CAPS.rglob("*.py"))])
def test_a_file_holds_one_idea(path: Path) -> None:
    """
    Every file has its licence line and opens with what is in it.
    """
    assert path.read_text(encoding="utf-8").startswith('# SPDX-License-Identifier: Apache-2.0\n"""')


@for_each(product(CAPS))
def test_a_package_imports_only_its_neighbours(path: Path) -> None:
    """
    Agent and mint never meet but over HTTP; nothing imports the command line.
    """
    package = package_of(path, CAPS)
    assert package in CAPS_IMPORTS, f"{package} is new: give it its place in CAPS_IMPORTS"
    for first, *rest in imports_of(path):
        if first == "arx_caps" and rest and rest[0] != package:
            is_front = package == "demo" and rest[0] in exports_of(arx_caps)  # as its programs are a user's
            assert is_front or rest[0] in CAPS_IMPORTS[package], f"imports {rest[0]}"


@for_each(product(CAPS / "mint"))
def test_a_package_of_the_mint_imports_only_from_below(path: Path) -> None:
    """
    The database knows no policy and no HTTP, the policy no context, a task no route.
    """
    package = package_of(path, CAPS / "mint")
    if package == "__init__":
        return
    assert package in MINT_ORDER, f"{package} is new: give it its place in MINT_ORDER"
    below = MINT_ORDER[: MINT_ORDER.index(package) + 1]
    for first, *rest in imports_of(path):
        if first == "arx_caps" and rest[0] == "mint":
            assert rest[1] in below, f"imports {'.'.join(rest)}, which is above"
        assert package != "db" or first not in {"starlette", "uvicorn", "httpx2"}, f"imports {first}"


@for_each(product(CAPS / "audit"))
def test_a_package_of_the_audit_log_imports_only_from_below(path: Path) -> None:
    """
    The files of the log know no database, shipping no log store, and nothing knows the queries.
    """
    package = package_of(path, CAPS / "audit")
    if package == "__init__":
        return
    assert package in AUDIT_ORDER, f"{package} is new: give it its place in AUDIT_ORDER"
    below = AUDIT_ORDER[: AUDIT_ORDER.index(package) + 1]
    for first, *rest in imports_of(path):
        if first == "arx_caps" and rest[0] == "audit":
            assert rest[1] in below, f"imports {'.'.join(rest)}, which is above"
        assert first != "sqlalchemy" or package in ("store", "integrity", "query"), f"imports {first}"


@for_each(sorted((CAPS / "cli").rglob("*.py")))
def test_a_command_imports_no_other_noun(path: Path) -> None:
    """
    What two nouns need is a helper beside ``commands``, and no helper imports a command.
    """
    commands = CAPS / "cli" / "commands"
    noun = package_of(path, commands) if path.is_relative_to(commands) else None
    for parts in imports_of(path):
        if parts[:3] == ("arx_caps", "cli", "commands"):
            assert parts[3] == noun, f"imports {'.'.join(parts)}"


@pytest.mark.parametrize("package", ["agent", "connect", "mint"])
def test_no_modules_of_a_package_import_each_other(package: str) -> None:
    """
    A package's modules can be put in an order, imports in functions and for types included; a circle is named.
    """
    modules = {path.relative_to(ROOT).with_suffix("").parts: path for path in (CAPS / package).rglob("*.py")}
    graph = {own: {parts[:-1] for parts in imports_of(path)} & modules.keys() for own, path in modules.items()}
    for own, path in modules.items():
        graph[own] |= {parts for parts in imports_of(path) if parts in modules}
    assert len(list(TopologicalSorter(graph).static_order())) == len(modules)


def test_a_function_of_a_route_has_a_name_of_its_own() -> None:
    """
    No name is given both in a route module and where the mint's work is done: a reader knows which of them is called.
    """
    routes = CAPS / "mint" / "api" / "routes"
    own = functions_of(routes.rglob("*.py"))
    others = functions_of(path for path in (CAPS / "mint").rglob("*.py") if not path.is_relative_to(CAPS / "mint/api"))
    both = {name: (own[name], others[name]) for name in own.keys() & others.keys()}
    assert not both
    assert {"start_task_route", "list_agents"} <= own.keys()
    assert {"start_task", "find"} <= others.keys()


@for_each(product(CAPS))
def test_no_context_variable_carries_data(path: Path) -> None:
    """
    What a function works on is in its signature; a variable of the context would hand it over behind the reader's back.

    A tool of an agent framework has the signature that the framework calls: its task alone comes this way.  A copy of
    the context, for a thread, carries what others have put there, such as the span of a trace.
    """
    if path == CAPS / "agent" / "tools" / "running_task.py":
        return
    found = {parts for parts in imports_of(path) if parts[0] in ("contextvars", "_contextvars")}
    assert found <= {("contextvars", "copy_context")}


@for_each(product(VERIFIER, CAPS))
def test_templates_alone_write_html(path: Path) -> None:
    """
    Every template escapes every value; HTML that a function writes would need to remember it at each of them.

    The console's filters are the exception: one function makes all their elements, and escapes what is in them.
    """
    if path != CAPS / "console" / "render.py":
        assert not {parts for parts in imports_of(path) if parts[0] in ("html", "markupsafe") and parts[-1] == "escape"}
        assert "</" not in path.read_text(encoding="utf-8")


def test_all_pages_have_one_base() -> None:
    """
    One template begins the document, for consent and console.
    """
    templates = [*CAPS.rglob("templates/*.html")]
    assert [name_of(path) for path in templates if "<html" in path.read_text(encoding="utf-8")] == [
        "arx_caps/mint/html/templates/base.html"
    ]
    assert len(templates) > 40


@for_each(product(VERIFIER))
def test_the_verifier_enters_no_front_door_of_its_own(path: Path) -> None:
    """
    Its modules import each other: an import of the package would be a circle.
    """
    assert "from arx_verifier import" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("door", FRONT_DOORS)
def test_a_door_gives_what_it_names(door: str) -> None:
    """
    It has each name that a type checker reads, under this name alone, and lists no other.
    """
    package = importlib.import_module(door)
    names = imported_names(package)
    assert {name for name, asname in names.items() if asname != name} <= {"TYPE_CHECKING", "open_door"}
    exports = exports_of(package)
    assert exports
    assert exports == set(getattr(package, "__all__", exports))
    assert exports <= set(dir(package))
    assert all(hasattr(package, name) for name in exports)
