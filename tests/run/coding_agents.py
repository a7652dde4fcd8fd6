# SPDX-License-Identifier: Apache-2.0
"""Claude Code, Codex and Gemini CLI of npm, unmodified, under `arx run` in a box: ``make agents``.

A script is in the place of each model, behind the gateway: it has its agent push to main, read why that is refused, and
push to the branch of its task.
"""

import json
import subprocess
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.adapters.asgi_server import serving
from tests.gateway.git_services import git, refs_of
from tests.run.page_realm import CREDENTIAL, MODEL_KEY, PageRealm
from tests.run.scripted_models import APIS, ScriptedModel
from tests.run.transcript import compare, recorded, shown
from tests.stock.coding_agents import CLAUDE, CODEX, npm_program

STEPS = ("git push origin HEAD:main", "git push origin HEAD:refs/heads/agent/login")
CREDENTIAL_LINE = 'credential = { header = "x-api-key", from = "env:ANTHROPIC_API_KEY" }'


class Agent(NamedTuple):
    """A coding agent: its package, its words without a person, and its model's API."""

    package: str
    version: str
    words: tuple[str, ...]
    catalogue: str
    host: str
    tool: str
    header: str
    prefix: str = ""


AGENTS = {
    "claude": Agent(
        "@anthropic-ai/claude-code",
        CLAUDE[-1],
        ("-p", "go", "--allowedTools", "Bash"),
        "anthropic",
        "api.anthropic.com",
        "messages",
        "x-api-key",
    ),
    "codex": Agent(
        "@openai/codex",
        CODEX,
        ("exec", "--sandbox", "danger-full-access", "go"),
        "openai",
        "api.openai.com",
        "responses",
        "authorization",
        "Bearer ",
    ),
    "gemini": Agent(
        "@google/gemini-cli",
        "0.61.0",
        ("--skip-trust", "--yolo", "-p", "go"),
        "gemini",
        "generativelanguage.googleapis.com",
        "generate",
        "x-goog-api-key",
    ),
}


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_reads_its_refusal_and_goes_on(name: str, tmp_path: Path) -> None:
    """
    Its own requests reach the model with the gateway's key; main is as before, and the branch has the commit.
    """
    agent = AGENTS[name]
    program = npm_program(agent.package, agent.version)
    api, realm = APIS[agent.catalogue], PageRealm(tmp_path)
    model = ScriptedModel(api, STEPS)
    with serving(model, log_level="critical") as port:
        credential = f'header = "{agent.header}", from = "env:ANTHROPIC_API_KEY", prefix = "{agent.prefix}"'
        changes = (
            ('url = "https://api.anthropic.com"', f'url = "http://127.0.0.1:{port}"\nhosts = ["{agent.host}"]'),
            ('"anthropic"', f'"{agent.catalogue}"'),
            (CREDENTIAL_LINE, f"credential = {{ {credential} }}"),
        )
        with realm.running(*changes, ("model.messages", f"model.{agent.tool}")):
            modules = next(each for each in program.parents if each.name == "node_modules")
            options = ("--read", str(modules))
            written = realm.output(str(program), *agent.words, options=options, stdin=subprocess.DEVNULL)
            assert written.rstrip().endswith("done"), written
            # Codex also asks GitHub for its plugins, at a time of its own: another repository.
            log = [line for line in recorded(realm) if line != "log     git.fetch deny argument_not_allowed"]
    heads = refs_of(realm.bare)
    assert heads["refs/heads/agent/login"] == git(realm.clone, "rev-parse", "HEAD").strip()
    lines = [f"$ arx run … -- {name} {' '.join(agent.words)}"]
    for step, read in zip(STEPS, model.read, strict=True):
        lines += [f"model   {step}", *shown(read)]
    members = dict[str, set[str]]()
    for method, path, headers, body in model.asked:
        assert headers[agent.header.encode()].decode() == agent.prefix + MODEL_KEY
        assert not any(secret in body for secret in (CREDENTIAL.encode(), MODEL_KEY.encode(), b"arxb1_", b"arx1_"))
        members.setdefault(f"{method} {path}", set()).update(json.loads(body))
    lines += [f"sent    {line}: {', '.join(sorted(found))}" for line, found in sorted(members.items())]
    compare(name, tmp_path, [*lines, *log])
