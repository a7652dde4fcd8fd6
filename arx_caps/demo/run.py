# SPDX-License-Identifier: Apache-2.0
"""A coding agent works by an unmodified git under `arx run`, without a secret, until it is killed.

Where bubblewrap does not work it has no box, and `arx run` prints a line about it.
"""

import base64
import json
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from arx_caps.demo.realm import DemoRealm, free_addresses, run_demo
from arx_caps.isolation.choice import kind_that_works

HERE = Path(__file__).resolve().parent
AGENT = "acme/coder"
BRANCH = "refs/heads/agent/login"
NO_MAIN = 'argument not allowed: refs[0] must match "refs/heads/agent/*", got "refs/heads/main"'
ENDED = "an operator ended this work, or its session did: stop, and report it; a thawed agent needs a new task"
EXPECTED = {
    "the agent's environment has the credential or the task": "neither",
    "it clones through the gateway": "done",
    "it pushes to a branch of its own": "done",
    "it pushes to main": NO_MAIN,
    "an operator reads who pushed what": f"{AGENT} {BRANCH} done, {AGENT} refs/heads/main refused",
    "every verifier confirms the kill of the agent": "2 of 2 verifiers confirmed",
    "the agent, which runs on, fetches again": ENDED,
    "the repository has the branch of the agent, and main as before": "agent/login main",
}
# A scripted agent, in the place of one with a model.  A line is a step and what came of it.
SCRIPT = r"""
came() {
  if [ "$2" = 0 ]; then echo "$1|done"; else echo "$1|$(grep -o 'refused by arx: [^)]*[^ ]*' log | head -1)"; fi
}
echo "environment|$(env | base64 | tr -d '\n')"
git config --global user.name coder
git config --global user.email coder@acme.example
git clone -q https://git.example/acme/app >log 2>&1; came "it clones through the gateway" $?
cd app
echo "a login" >login && git add login && git commit -q -m "add a login"
git push origin HEAD:agent/login >log 2>&1; came "it pushes to a branch of its own" $?
git push origin HEAD:main >log 2>&1; came "it pushes to main" $?
read go
git fetch origin >log 2>&1; came "the agent, which runs on, fetches again" $?
"""


class StartedAgent(NamedTuple):
    """What ``set_up`` has started.

    Attributes:
        agent: The agent, under its task.
        bare: The repository.
        main: The commit of its branch `main`.
        secret: The credential of the server of git.
    """

    agent: "subprocess.Popen[str]"
    bare: Path
    main: str
    secret: str


def git(folder: Path, *words: str) -> str:
    """Run git without settings of the user; return what it wrote."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    variables = kept | {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull}
    command = ["git", "-c", "user.name=ann", "-c", "user.email=ann@acme.example", *words]
    return subprocess.run(command, cwd=folder, env=variables, stdout=subprocess.PIPE, text=True, check=True).stdout


def repository(folder: Path) -> Path:
    """Make a bare repository with one commit; return its folder."""
    bare, clone = folder / "served" / "acme" / "app.git", folder / "clone"
    bare.mkdir(parents=True)
    git(bare, "init", "--quiet", "--bare", "--initial-branch=main")
    git(bare, "config", "http.receivepack", "true")
    git(folder, "init", "--quiet", "--initial-branch=main", str(clone))
    git(clone, "commit", "--quiet", "--allow-empty", "-m", "begin")
    git(clone, "push", "--quiet", str(bare), "main")
    return bare


def set_up(realm: DemoRealm) -> StartedAgent:
    """Start a server of git, the mint and the gateway, and the agent."""
    mint, gateway, server = free_addresses(3)
    place = realm.folder.parent
    bare = repository(place)
    for each in ("home", "work"):
        (place / each).mkdir()
    secret = base64.b64encode(f"gateway:{secrets.token_hex(16)}".encode()).decode()
    realm.environment |= {"GIT_SERVER_BASIC": secret, "HOME": str(place / "home")}
    file = place / "git.basic"
    file.touch(0o600)
    file.write_text(secret)
    realm.start("-m", "arx_caps.demo.git_server", place / "served", server.rpartition(":")[2], file)
    realm.arx("init", realm.folder, "--name", "acme", "--issuer", mint)
    for name in ("gateway.toml", "policy.toml"):
        text = (HERE / f"run_{name}").read_text()
        for known, own in (("127.0.0.1:9020", gateway), ("127.0.0.1:9021", server)):
            text = text.replace(known, own.removeprefix("http://"))
        (realm.folder / name).write_text(text)
    up = realm.start("-m", "arx_caps.cli", "up", "--quiet", "--gateway", realm.folder / "gateway.toml")
    next(line for line in up if line.startswith("ready: the gateway"))
    key = realm.folder / "coder.key.json"
    realm.arx("agent", "enrol", AGENT, "--key-out", key)
    boxed = kind_that_works() == "bubblewrap"
    words = ["run", *([] if boxed else ["--no-box"]), "--key", str(key), "code", "--param", "repo=acme/app", "--"]
    agent = subprocess.Popen(
        [sys.executable, "-m", "arx_caps.cli", *words, "sh", "-c", SCRIPT],
        cwd=place / "work",
        env=realm.environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    realm.end_with_the_demo(agent)
    return StartedAgent(agent, bare, git(bare, "rev-parse", "main"), secret)


def play(realm: DemoRealm, started: StartedAgent) -> Iterator[dict[str, Any]]:
    """Read what the agent reports, and act as its operator; yield what came of each step."""
    assert started.agent.stdout is not None
    for line in started.agent.stdout:
        step, _, came = line.strip().partition("|")
        if step == "environment":
            variables = base64.b64decode(came).decode()
            found = [
                name for name, text in (("the credential", started.secret), ("the task", "arxb1_")) if text in variables
            ]
            step, came = "the agent's environment has the credential or the task", " and ".join(found) or "neither"
        yield {"step": step, "came": came.removeprefix("refused by arx: ")}
        if step == "it pushes to main":
            yield who_pushed(realm)
            kill = realm.kill(f"agent:{AGENT}")
            came = f"{kill['confirmed']} of {kill['verifiers']} verifiers confirmed"
            yield {"step": "every verifier confirms the kill of the agent", "came": came, "why": [kill["summary"]]}
            print("go", file=started.agent.stdin, flush=True)
    heads = git(started.bare, "for-each-ref", "--format=%(refname:lstrip=2)").split()
    as_before = git(started.bare, "rev-parse", "main") == started.main
    came = " ".join(heads) if as_before else "main has changed"
    yield {"step": "the repository has the branch of the agent, and main as before", "came": came}


def who_pushed(realm: DemoRealm) -> dict[str, Any]:
    """Read in the signed log what was pushed, once it has come there."""
    found: list[Any] = []
    until = time.monotonic() + 30
    while len(found) < 2 and time.monotonic() < until:
        found = json.loads(realm.arx("audit", "commits", "acme/app", "--json"))["updates"]
    came = ", ".join(f"{each['agent']} {each['ref']} {each['result']}" for each in found)
    return {"step": "an operator reads who pushed what", "came": came}


def run_run(say: Callable[[str], None]) -> dict[str, Any]:
    """Play the demo and return its report; without git it has no steps."""
    if shutil.which("git") is None:
        say("git is not installed: `arx demo run` is left out")
        return {"steps": [], "not_as_expected": [], "seconds": 0.0}
    return run_demo(EXPECTED, "Valkey, a mint, a gateway and a server of git", set_up, play, say)
