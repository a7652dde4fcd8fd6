# SPDX-License-Identifier: Apache-2.0
"""The texts of the command line: transcripts in ``tests/cli/texts``, one file a noun.

A transcript has the command lines, what each writes and how it ends.  ``python -m tests.cli.transcripts`` runs every
command line again and writes the files anew; to add a case, add a line ``$ arx …`` and run it.  ``offline`` has what
needs no realm that runs, ``realm`` has one, and its files run in the order of their names.
"""

import contextlib
import os
import re
import shlex
import socket
import tempfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Final

from arx_caps.cli import exit_codes
from tests.cli.helpers import REQUIRED, Ran, approval, arx, bundle, orders, service_file
from tests.cli.live import live_realm
from tests.servers import until

TEXTS: Final = Path(__file__).with_name("texts")
PROMPT: Final = "$ arx "
# What a command line may name of the outputs before it: the last session, task, approval and link.
LAST: Final = {
    "{session}": re.compile(r"\bs-[a-z2-7]{16}\b"),
    "{task}": re.compile(r"\bt-[a-z2-7]{16}\b"),
    "{approval}": re.compile(r"\ba-[a-z2-7]{16}\b"),
    "{webhook}": re.compile(r"\bw-[a-z2-7]{16}\b"),
    "{link}": re.compile(r"\blink:[A-Za-z0-9_-]{22}\b"),
}
# What follows the audit log, which the mint writes after it has answered: repeated until the output has this text.
FOLLOWING: Final = {"session show {session}": "allowed"}
CHANGING: Final = (
    (r"\+[0-9a-f]{8}\+[A-Za-z0-9+/=]{44}", "+HASH+KEY"),
    (r"\b([staw])-[a-z2-7]{16}\b", r"\1-…"),
    (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d(\.\d{3})?Z", "TIME"),
    (r"sha256:[0-9a-f]{16}", "sha256:…"),
    (r"(?<![A-Za-z0-9_/-])[A-Za-z0-9_-]{43}(?![A-Za-z0-9_-])", "KEY"),
    (r"(?<![A-Za-z0-9_/-])[A-Za-z0-9_-]{22}(?![A-Za-z0-9_-])", "ID"),
    (r"(127\.0\.0\.1:|localhost:)\d+", r"\1PORT"),
    (r"arx\.mint-\d+-[0-9a-f]{6}", "arx.mint-RUN"),
    (r"\b\d+(\.\d+)? ms\b", "N ms"),
    (r"\((in|about) [0-9dhms ]+\)", r"(\1 …)"),
    (r"\b(N ms|[0-9dhms ]+) ago\b", "… ago"),
    (r"\b(confirmed|partial|unconfirmed|unknown): .*", "REPORT"),  # how soon the verifiers answer
    (r"\b\d+ (days|hours|minutes|s) (later|earlier)\b", r"N \1 \2"),
    (r"\b[0-9a-f]{64}\b", "HASH"),
    (rf"(?<!\S){re.escape(version('arx-caps'))}(?!\S)", "VERSION"),
    (r"(ok +verifier: ).*", r"\1BUILD"),
    (r"(?<=\S) {2,}(?=\S)", "  "),  # columns are as wide as what changes
    (r"(?m) +$", ""),
)


def play(text: str, folder: Path, environment: dict[str, str]) -> str:
    """Run every command line of a transcript in a folder, and return the transcript of now.

    Args:
        text: The transcript.
        folder: The working directory; its path is written as FOLDER.
        environment: The variables of each command.
    """
    found: dict[str, str] = {}
    parts = []
    for line in text.splitlines():
        if line.startswith("# "):
            parts.append(line)
        if not line.startswith(PROMPT):
            continue
        words = line.removeprefix(PROMPT)
        for name, value in found.items():
            words = words.replace(name, value)
        with contextlib.chdir(folder):
            ran = run(words, environment, FOLLOWING.get(line.removeprefix(PROMPT), ""))
        for name, pattern in LAST.items():
            found |= {name: ids[-1]} if (ids := pattern.findall(ran.out + ran.err)) else {}
        written = ran.out + "".join(f"! {each}\n" for each in ran.err.splitlines())
        shown = steady(written, folder).splitlines()
        ends = "[exit 0 or 3]" if any("REPORT" in each for each in shown) else f"[exit {ran.exit_code}]"
        assert "0 or 3" not in ends or ran.exit_code in (exit_codes.OK, exit_codes.INCOMPLETE), ran
        parts.append("\n".join([line, *shown, *([ends] if ends != "[exit 0]" else []), ""]))
    return "\n".join(parts)


def run(words: str, environment: dict[str, str], awaited: str) -> Ran:
    """Run a command line until its output has a text."""
    ran: list[Ran] = []

    def has_text() -> bool:
        ran.append(arx(*shlex.split(words), env=environment))
        return awaited in ran[-1].out

    until(has_text)
    return ran[-1]


def steady(text: str, folder: Path) -> str:
    """Return a text without what differs from run to run."""
    for path in (folder.resolve(), folder):
        text = text.replace(str(path), "FOLDER")
    for pattern, instead in CHANGING:
        text = re.sub(pattern, instead, text)
    return text


def offline(folder: Path) -> dict[str, str]:
    """Write the files that the offline transcripts name, and return the environment."""
    (folder / "task.bundle").write_text(bundle(REQUIRED).encode())
    (folder / "orders.token").write_text(orders().encode())
    (folder / "refund.approval").write_text(approval(20))
    (folder / "other.json").write_text('{"v": 9}')
    (folder / "empty.toml").write_text("")
    (folder / "odd.toml").write_text('[task.refund]\nagents = ["acme/x"]\nttl = "10m"\ntl = 5\n')
    (folder / "several.toml").write_text('[task.refund]\nttl = 5\n\n[task.lookup]\nttl = "10m"\n\n[tsk]\n')
    (folder / "services.toml").write_text("[service.Orders]\n[service.mail]\nstor = 5\n[audience.mail]\n")
    service_file(folder / "orders.json")
    for path in folder.iterdir():
        path.chmod(0o600)
    return {}


@contextlib.contextmanager
def realm(folder: Path) -> Iterator[dict[str, str]]:
    """Run a realm for the transcripts that need one; yield the environment."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (folder / "services.toml").write_text("[service.orders]\n[service.reports]\n[service.stock]\n")
    with live_realm(folder / "realm", port):
        yield {"ARX_HOME": str(folder / "realm")}


def now() -> Iterator[tuple[Path, str]]:
    """Yield each transcript's file and its text of now."""
    for file in sorted((TEXTS / "offline").glob("*.txt")):
        with tempfile.TemporaryDirectory() as made:  # of its own, as in the test
            folder = Path(made)
            yield file, play(file.read_text("utf-8"), folder, offline(folder))
    with tempfile.TemporaryDirectory() as made, realm(Path(made)) as environment:
        for file in sorted((TEXTS / "realm").glob("*.txt")):
            yield file, play(file.read_text("utf-8"), Path(made), environment)


if __name__ == "__main__":
    os.environ.pop("ARX_HOME", None)
    for path, text in now():
        path.write_text(text, "utf-8")
