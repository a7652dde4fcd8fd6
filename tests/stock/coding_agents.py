# SPDX-License-Identifier: Apache-2.0
"""Claude Code with the hook of ARx, and Codex with the entry of the bridge: ``python -m tests.stock.coding_agents``.

The programs are those of npm, unchanged.  A scripted model on loopback makes Claude Code call its tools.
"""

import json
import os
import subprocess
import sys
import tempfile
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Final

from tests.cli.helpers import arx
from tests.cli.live import live_realm
from tests.connect.conftest import World
from tests.hook.test_claude_code import hook
from tests.hook.test_decider import PAGE, STATUS, decider
from tests.house.pages import blocks
from tests.routes.environments import ROOT, alone
from tests.run.scripted_models import Call, anthropic
from tests.servers import free_ports

CLAUDE: Final = ("2.1.197", "2.1.332")  # before and after `onFailure`
CODEX: Final = "0.171.0"
WAIT_S: Final = 120


def npm_program(package: str, version: str) -> Path:
    """Install a package where it is missing, and return its program for this system."""
    folder = ROOT / "build" / "stock" / f"{package.rpartition('/')[2]}-{version}"
    with alone(folder):
        if not (folder / "node_modules").exists():
            folder.mkdir(parents=True, exist_ok=True)
            command = ["npm", "install", "--prefix", ".", "--no-audit", "--no-fund", "--ignore-scripts"]
            subprocess.run([*command, f"{package}@{version}"], cwd=folder, check=True, capture_output=True)
    name = package.rpartition("/")[2].removesuffix("-code").removesuffix("-cli")
    found = [path for path in (folder / "node_modules").glob(f"@*/*/**/{name}") if os.access(path, os.X_OK)]
    return next((path for path in found if path.is_file()), folder / "node_modules" / ".bin" / name)


class ScriptedModel(BaseHTTPRequestHandler):
    """The Messages API, as far as Claude Code needs it: a tool call a turn, and then the end."""

    protocol_version = "HTTP/1.1"
    steps: tuple[Call, ...] = ()
    results: dict[str, str]

    def do_POST(self) -> None:
        """Answer with the next call of the script."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if not self.path.partition("?")[0].endswith("/v1/messages"):
            self._reply(404, b"{}", "application/json")
            return
        parts = [part for each in body["messages"] if isinstance(each["content"], list) for part in each["content"]]
        for part in parts:
            if part["type"] == "tool_result":
                self.results[part["tool_use_id"]] = json.dumps(part["content"])
        self._reply(200, anthropic(body, self.steps), "text/event-stream")

    def do_GET(self) -> None:
        """Know nothing else."""
        self._reply(404, b"{}", "application/json")

    def log_message(self, *_: Any) -> None:
        """Write no log."""

    def _reply(self, status: int, body: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextmanager
def scripted_model(
    steps: tuple[Call, ...], results: dict[str, str] | None = None
) -> Iterator[tuple[str, dict[str, str]]]:
    """Serve a model; yield its URL, and what it reads of its tools by their order."""
    results = {} if results is None else results
    handler = type("Scripted", (ScriptedModel,), {"steps": steps, "results": results})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}", results
        server.shutdown()


def claude(
    program: Path,
    folder: Path,
    settings: Any,
    *steps: Call,
    words: tuple[str, ...] = ("--allowedTools", "Bash Read Write WebFetch"),
    results: dict[str, str] | None = None,
) -> list[str]:
    """Run Claude Code with a script, and return what its model reads of each call, which ``results`` gets at once."""
    home, project = folder / "home", folder / "project"
    for each in (home, project):
        each.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps(settings))
    with scripted_model(steps, results) as (url, read):
        environment = {"PATH": os.environ["PATH"], "HOME": str(home), "ANTHROPIC_BASE_URL": url}
        environment |= {"ANTHROPIC_API_KEY": "none", "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1"}
        environment |= {"DISABLE_AUTOUPDATER": "1", "PYTHONPATH": str(ROOT)}
        command = [str(program), "-p", "go", "--settings", str(folder / "settings.json"), *words]
        subprocess.run(
            command,
            cwd=project,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=WAIT_S,
            check=True,
        )
    return [read[f"toolu_{number}"] for number in range(len(steps))]


def guarded(version: str, folder: Path) -> None:
    """Guard a Claude Code by the hook, with the page's policy in a realm that runs.

    Raises:
        AssertionError: A call that is not allowed ran, or one that is allowed did not.
    """
    program = npm_program("@anthropic-ai/claude-code", version)
    made: Call = ("Bash", {"command": "touch made", "description": "make a file"})
    path, bundle = folder / "hook.sock", folder / "task.bundle"
    with live_realm(folder / "realm", free_ports(1)[0]) as live:
        (policy,) = [block.text for block in blocks(PAGE) if block.language == "toml"]
        shown = policy.replace('"git diff"', '"touch made"').replace("/home/ann/shop", str((folder / "run").resolve()))
        (live.folder / "policy.toml").write_text(shown)
        live.ok("policy", "reload")
        live.ok("agent", "enrol", "acme/coder", "--key-out", folder / "coder.key.json")
        live.ok("service", "enrol", "laptop", "--out", folder / "laptop.arx.json")
        live.ok("session", "open", "--key", folder / "coder.key.json", "--out", folder / "session.json")
        live.ok("task", "start", "code", "--session", folder / "session.json", "--out", bundle)
        words = ("hook", "claude-code", "--task", bundle, "--decider", path, "--print-config", "--json")
        settings = arx(*words).json["config"]
        with decider(folder / "laptop.arx.json", path):
            live.until(lambda: hook(STATUS, "--task", bundle, "--decider", path).returncode == 0)
            ran, refused, written, read, fetched = claude(
                program,
                folder / "run",
                settings,
                made,
                ("Bash", {"command": "touch made; touch other", "description": "make files"}),
                ("Write", {"file_path": str(folder / "run" / "project" / "x"), "content": "x"}),
                ("Read", {"file_path": "/etc/passwd"}),
                ("WebFetch", {"url": "https://other.example/", "prompt": "x"}),
            )
            assert "was refused" not in ran
            assert sorted(each.name for each in (folder / "run" / "project").iterdir()) == ["made"]
            for name, text in (("Bash", refused), ("Write", written), ("Read", read), ("WebFetch", fetched)):
                assert f"{name} was refused: " in text, text
            live.confirmed("kill", "agent:acme/coder", "--reason", "a test", "--yes")
            (ended,) = claude(program, folder / "killed", settings, made)
            assert "An operator ended this work" in ended, ended
        (alone_,) = claude(program, folder / "alone", settings, made)  # no decider any more
        assert "expected a running `arx hook serve`" in alone_, alone_
        broken = settings["hooks"]["PreToolUse"][0]["hooks"][0]
        broken["command"] = broken["command"].replace("arx_caps.cli", "no_such_module")
        (missing,) = claude(program, folder / "missing", settings, made)
        assert "no_such_module" in missing, missing
        for each in ("killed", "alone", "missing"):
            assert not any((folder / each / "project").iterdir())
    sys.stdout.write(f"Claude Code {version}: passed\n")


def listed(folder: Path) -> None:
    """Let Codex read the printed entry.

    Raises:
        AssertionError: It reads another command.
    """
    world = World(folder)
    printed = arx("connect", "--task", world.bundle, "--print-config", "codex", world.url).out
    (folder / "config.toml").write_text(printed)
    command = [str(npm_program("@openai/codex", CODEX)), "mcp", "list", "--json"]
    done = subprocess.run(command, env={**os.environ, "CODEX_HOME": str(folder)}, capture_output=True, check=True)
    (server,) = json.loads(done.stdout)
    entry = tomllib.loads(printed)["mcp_servers"]["orders"]
    assert (server["name"], server["enabled"]) == ("orders", True)
    assert {name: server["transport"][name] for name in entry} == entry
    sys.stdout.write(f"Codex {CODEX}: passed\n")


def main() -> None:
    """Run it."""
    with tempfile.TemporaryDirectory() as folder:
        for version in CLAUDE:
            (Path(folder) / version).mkdir()
            guarded(version, Path(folder) / version)
        (Path(folder) / "codex").mkdir()
        listed(Path(folder) / "codex")


if __name__ == "__main__":
    main()
