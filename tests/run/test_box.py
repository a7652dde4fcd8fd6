# SPDX-License-Identifier: Apache-2.0
"""The box of `arx run`: the front is the only way out, nothing secret comes in, and the command runs as without it."""

import contextlib
import functools
import json
import os
import pty
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from arx_caps.embedded import EmbeddedValkey
from arx_verifier.journal.reader import read_journal
from tests.gateway.git_services import git, refs_of
from tests.house.pages import ROOT
from tests.run.world import RunWorld, git_world

PYTHON = "/usr/bin/python3"  # that every user can run
PLAIN_BOX, WAYS = ROOT / "tests" / "run" / "plain_box.py", ROOT / "tests" / "run" / "ways_out.py"
SPY = (ROOT / "tests" / "gateway" / "spy.py").read_text("utf-8")
USERS = ["own", *(["nobody"] if os.geteuid() == 0 else [])]
# Ways of `ways_out.py` that lead out without a box, whatever the machine.
OPEN = (
    *("tcp_of_the_host_0", "tcp_by_any_address", "tcp_by_a_mapped_address", "abstract_socket", "socket_in_tmp"),
    *("ports_in_proc", "sockets_in_proc", "signal_to_the_starter", "host_s_tmp", "link_to_outside"),
)


def boxed(user: str, folder: Path, protected: Path, *command: str, **more: Any) -> "subprocess.CompletedProcess[str]":
    """Run a command in a box, before a front that answers one text."""
    given = {"user": user, "group": "nogroup", "extra_groups": []} if user != "own" else {}
    return subprocess.run(
        [PYTHON if given else sys.executable, str(PLAIN_BOX), str(folder), str(protected), *command],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        **given,
        **more,
    )


@functools.cache
def why_not(user: str) -> str | None:
    """Return why there is no box for a user on this machine."""
    with place_of(user) as folder:
        done = boxed(user, folder, folder / "none", "true")
    return None if done.returncode == 0 else f"no box for {user}: {done.stderr[-300:]}"


@contextlib.contextmanager
def place_of(user: str) -> Iterator[Path]:
    """A folder of a user, which others cannot enter."""
    folder = Path(tempfile.mkdtemp(prefix="arx-box-", dir="/var/tmp"))
    if user != "own":
        os.chown(folder, pwd.getpwnam(user).pw_uid, -1)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


each_user = pytest.mark.parametrize(
    "user",
    [
        pytest.param(user, marks=pytest.mark.skipif(why_not(user) is not None, reason=str(why_not(user))))
        for user in USERS
    ],
)


@contextlib.contextmanager
def targets(folder: Path) -> Iterator[dict[str, Any]]:
    """Servers of the machine that a command would reach without a box, and a file."""
    with contextlib.ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("0.0.0.0", 0), backlog=64))
        tcp6 = stack.enter_context(socket.create_server(("::", 0), family=socket.AF_INET6, backlog=64))
        abstract = f"arx-{secrets.token_hex(8)}"
        path = Path(tempfile.mkdtemp(prefix="arx-way-", dir="/tmp"))
        stack.callback(shutil.rmtree, path)
        path.chmod(0o755)
        for name in ("\0" + abstract, str(path / "s")):
            listener = stack.enter_context(socket.socket(socket.AF_UNIX))
            listener.bind(name)
            listener.listen(8)
        (path / "s").chmod(0o666)
        (path / "canary").write_text("canary")
        (folder / "work").mkdir(exist_ok=True)
        (folder / "work" / "link").symlink_to(path / "canary")
        (folder / "work").chmod(0o777)
        shutil.copy(WAYS, folder / "work")
        yield {
            "hosts": ["127.0.0.2", socket.gethostname()],
            "tcp": tcp.getsockname()[1],
            "tcp6": tcp6.getsockname()[1],
            "abstract": abstract,
            "socket": str(path / "s"),
            "file": str(path / "canary"),
            "pid": os.getpid(),
            "net": str(Path("/proc/self/ns/net").readlink()),
            "code": str(ROOT / "arx_caps" / "run" / "loopback.py"),
            "only": [],
        }


@pytest.mark.spec("11")
@each_user
def test_the_front_is_the_only_way_out(user: str) -> None:
    """
    None of the other ways leads out of a box; without one, those that do no harm lead out, so they are ways.
    """
    with place_of(user) as folder, targets(folder) as given:
        done = boxed(user, folder, Path(given["file"]), PYTHON, "ways_out.py", json.dumps(given))
        assert done.returncode == 0, done.stderr
        came = json.loads(done.stdout)
        assert came["tried"] >= 75
        assert came["led"] == []
        words = [PYTHON, "ways_out.py", json.dumps(given | {"only": OPEN})]
        free = subprocess.run(words, cwd=folder / "work", capture_output=True, text=True, check=True, timeout=300)
        assert json.loads(free.stdout)["led"] == [*OPEN]


@each_user
def test_the_front_is_reached_by_loopback_and_by_its_socket(user: str) -> None:
    """
    By many connections too, one after the other and side by side.
    """
    program = (
        'curl -s --unix-socket "$(dirname "$SSL_CERT_FILE")/front.sock" http://a.example; echo;'
        'seq 200 | xargs -P 20 -I{} curl -s -o /dev/null -w "%{http_code}\\n" --noproxy "*" "$HTTPS_PROXY/{}"'
    )
    with place_of(user) as folder:
        done = boxed(user, folder, folder / "none", "sh", "-c", program)
    assert done.stdout == "the front\n" + "200\n" * 200, done.stderr


@each_user
def test_nothing_secret_of_the_starter_is_in_the_box(user: str) -> None:
    """
    Canaries in the starter's environment, arguments, files, memory, keyrings: the gateway's spy finds none, nor does a
    walk through all that the command can read.
    """
    plant = f"plant-{secrets.token_hex(16)}"
    walk = (
        f"grep -rls -D skip {plant[:20]} / --exclude-dir=sys --exclude-dir=usr --exclude-dir=proc --exclude-dir=dev"
        " | sed 's/^/led: /';"
        "cat /proc/[0-9]*/environ /proc/[0-9]*/cmdline | tr '\\0' '\\n'; env"
    )
    message = {"jsonrpc": "2.0", "id": 1, "method": "tools/call"}
    with place_of(user) as folder, place_of(user) as home:
        for name in (".netrc", ".npmrc", ".gitconfig", "key.json", "core"):
            (home / name).write_text(plant)
            (home / name).chmod(0o644)
        files = [str(each) for each in home.iterdir()]
        about: dict[str, Any] = {
            "pids": [os.getpid(), 1_000_000],
            "planted": files[0],
            "files": dict.fromkeys(
                SPY.split('for kind in ("root_key"')[1].split(")")[0].replace('"', "").split(", ")[1:], files
            )
            | {"root_key": files},
            "folders": [str(home)],
            "programs": [str(ROOT)],
            "places": dict.fromkeys(
                (
                    *("temporary_files", "long_lived_temporary_files", "shared_memory_files", "shell_history"),
                    *("git_settings", "npm_settings", "netrc", "core_dump"),
                ),
                files,
            ),
            "sockets": [],
            "ports": [],
            "written": "arx-written",
            "mint": 9,
            "key": "arx-plant",
            "memory": -1,
        }
        environment = {"PATH": os.environ["PATH"], "SECRET": plant, "AWS_SECRET_ACCESS_KEY": plant, "HOME": str(home)}
        text = json.dumps(message | {"params": {"arguments": {"targets": about}}}) + "\n"
        done = boxed(user, folder, home / "key.json", PYTHON, "-c", SPY, input=text, env=environment)
        assert done.returncode == 0, done.stderr
        came = json.loads(json.loads(done.stdout)["result"]["content"][0]["text"])
        assert len(came["tried"]) >= 50
        assert came["found"] == [], came
        shutil.rmtree(folder / "run")
        done = boxed(user, folder, home / "key.json", "sh", "-c", walk, env=environment)
        assert "HTTPS_PROXY" in done.stdout
        assert plant not in done.stdout
        assert "led: " not in done.stdout.replace("s/^/led: /", "")


@pytest.fixture
def place(tmp_path: Path, valkey: EmbeddedValkey, realm_name: str) -> Iterator[tuple[RunWorld, Path]]:
    with git_world(tmp_path, valkey, realm_name) as found:
        yield found


def run(world: RunWorld, clone: Path, *command: str, options: tuple[str, ...] = (), **more: Any) -> Any:
    """Run a command under the task of a world, in a box, in a clone."""
    return world.run(*command, options=options, cwd=clone, **more)


needs_box = pytest.mark.skipif(why_not("own") is not None, reason=str(why_not("own")))


@needs_box
@pytest.mark.servers
@pytest.mark.spec("8.7")
def test_git_works_in_the_box(place: tuple[RunWorld, Path]) -> None:
    """
    Unmodified git commits and pushes what the task allows, and prints why another push is refused.
    """
    world, clone = place
    script = (
        "set -e; echo two > file; git commit -qam two; git fetch -q; git push -q origin HEAD:refs/heads/agent/a;"
        "git push origin HEAD:main || echo refused"
    )
    (world.folder / ".gitconfig").write_text("[user]\nname = canary\nemail = canary@example\n")
    done = run(
        world,
        clone,
        "sh",
        "-c",
        f"git config user.email >&2; git config user.name Ada; git config user.email a@b.c; {script}",
    )
    assert done.stdout == "refused\n", done.stderr
    assert "(refused by arx: " in done.stderr
    assert "canary" not in done.stderr
    new = git(clone, "rev-parse", "HEAD").strip()
    assert refs_of(world.folder / "served" / "acme" / "app.git")["refs/heads/agent/a"] == new


@pytest.mark.servers
@pytest.mark.parametrize("options", [pytest.param((), marks=needs_box), ("--no-box",)])
def test_a_long_path_of_temporary_files_is_no_hindrance(
    place: tuple[RunWorld, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    """
    The path of the front's socket would be too long in their folder: it is elsewhere.
    """
    (long := tmp_path / ("d" * 100)).mkdir()
    monkeypatch.setenv("TMPDIR", str(long))
    done = run(*place, "git", "ls-remote", "--heads", options=options)
    assert done.returncode == 0, done.stderr
    assert "refs/heads/main" in done.stdout


@pytest.mark.servers
@pytest.mark.spec("12.11")
@pytest.mark.parametrize("box", [pytest.param("bubblewrap", marks=needs_box), "none"])
def test_each_record_has_the_box_that_the_front_states(place: tuple[RunWorld, Path], box: str) -> None:
    """
    Decisions and effects of a run have its box, whatever the command writes into the header; those of another
    client have none.
    """
    world, clone = place
    other = "none" if box == "bubblewrap" else "bubblewrap"
    script = (
        f"git config --add http.extraHeader 'X-ARx-Box: {other}'; git push -q origin HEAD:refs/heads/agent/a;"
        "git push -q origin HEAD:refs/heads/main; true"
    )
    world.run("sh", "-c", script, options=("--no-box",) if box == "none" else (), cwd=clone)
    records = [record.to_dict() for record in read_journal(world.folder / "journal")]
    of_run = [record for record in records if record["session"] == "s-1"]
    assert {record["outcome"] for record in of_run} == {"allow", "deny", "effect"}
    assert {record["box"] for record in of_run} == {box}
    assert not any("box" in record for record in records if record["session"] == "s-0")


@needs_box
@pytest.mark.servers
def test_status_streams_and_ends_are_those_of_the_command(place: tuple[RunWorld, Path]) -> None:
    """
    Exit statuses, pipes, a signal that the command takes, and the end of all that it has started.
    """
    world, clone = place
    statuses = {
        "exit 7": 7,
        "kill -9 $$": 137,
        "kill -TERM $$": 143,
        "exec no-such-program": 127,
        "exec /etc/passwd": 126,
    }
    for script, status in statuses.items():
        assert run(world, clone, "sh", "-c", script).returncode == status
    assert run(world, clone, "no-such-program").returncode == 127
    done = run(world, clone, "sh", "-c", "tr a-z A-Z; echo error >&2; sleep 1000 & exit 3", input="text" * 100_000)
    assert (done.returncode, done.stdout, done.stderr) == (3, "TEXT" * 100_000, "error\n")
    done = run(world, clone, sys.executable, "-c", "import os, signal; os.kill(os.getpid(), signal.SIGINT)")
    assert done.returncode == 130


@needs_box
@pytest.mark.servers
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_signals_reach_the_command(place: tuple[RunWorld, Path], number: signal.Signals) -> None:
    """
    A signal to `arx run` is the command's, which ends as it likes.
    """
    world, clone = place
    program = f"trap 'echo caught; exit 3' {number.name[3:]}; echo ready; while :; do read line; done"
    with subprocess.Popen(
        world.words("sh", "-c", program, options=()),
        cwd=clone,
        env=world.environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stdin is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(number)
        running.stdin.write("\n" * 2)
        running.stdin.flush()
        assert running.stdout.readline() == "caught\n"
        assert running.wait(60) == 3


@needs_box
@pytest.mark.servers
def test_the_box_ends_with_its_starter(place: tuple[RunWorld, Path]) -> None:
    """
    After SIGKILL of `arx run` its pipe closes: no process of the box lives.
    """
    world, clone = place
    with subprocess.Popen(
        world.words("sh", "-c", "trap '' TERM HUP; echo ready; sleep 1000 & sleep 1000", options=()),
        cwd=clone,
        env=world.environment(),
        stdout=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.kill()
        assert running.stdout.read() == ""


@needs_box
@pytest.mark.servers
def test_a_terminal_works_and_takes_no_key_of_the_outer_one(place: tuple[RunWorld, Path]) -> None:
    """
    A shell has a terminal of its own: job control, /dev/tty, Ctrl-C and the size; the outer one is restored.
    """
    world, clone = place
    pid, outer = pty.fork()
    if pid == 0:
        os.chdir(clone)
        words = world.words("bash", "--norc", "-i", options=())
        os.execvpe(words[0], words, world.environment() | {"TERM": "dumb"})
    seen = Screen(outer)
    seen.until("# ", "$ ")
    seen.type("tty; test -c /dev/tty < /dev/tty && echo ha''s\n")
    assert "/dev/pts/0" in seen.until("has")
    seen.type("sh -c 'echo run\"\"ning; exec sleep 1000'\n")
    seen.until("running")
    seen.type("\x03")
    seen.until("^C")
    seen.type("echo sta''tus $?\n")
    assert "status 130" in seen.until("status 130")
    seen.type("sleep 1000 & kill %1; wait; echo jo''bs\n")
    seen.until("jobs")
    seen.type("exit 9\n")
    seen.until_end()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9


class Screen:
    """What a terminal shows."""

    def __init__(self, number: int) -> None:
        self._number, self._text = number, ""

    def type(self, text: str) -> None:
        """Type a text."""
        os.write(self._number, text.encode())

    def until(self, *texts: str) -> str:
        """Return what is shown up to one of some texts, and begin anew behind it."""
        while not any(text in self._text for text in texts):
            self._text += os.read(self._number, 4096).decode()
        shown, self._text = self._text, ""
        return shown

    def until_end(self) -> None:
        """Wait until the terminal is closed."""
        with contextlib.suppress(OSError):
            while os.read(self._number, 4096):
                pass


@needs_box
@pytest.mark.servers
def test_files_of_the_task_are_never_in_the_box(place: tuple[RunWorld, Path]) -> None:
    """
    A folder with them is refused as the working folder and by each option; so are the home and links that lead there.
    """
    world, clone = place
    texts = {
        ("--read", str(world.folder)): f"could read {world.bundle}",
        ("--write", str(world.bundle)): f"could read {world.bundle}",
        ("--home", str(world.folder)): f"could read {world.bundle}",
        ("--home", "/"): "could read",
        ("--write", str(ROOT)): "install ARx and bubblewrap elsewhere",
        ("--home", "left"): "left is a link in",
    }
    (clone / "left").symlink_to(Path("/var/tmp"))
    for options, text in texts.items():
        done = run(world, clone, "cat", str(world.bundle), options=options)
        assert done.returncode == 125, done.stderr
        assert text in done.stderr
        assert done.stdout == ""
    done = world.run("cat", str(world.bundle), options=())
    assert f"could read {world.bundle}" in done.stderr
    (clone / "session.json").touch(0o600)
    for text in (json.dumps({"v": 1, "key": {"kty": "OKP", "d": "x"}}), '{"kty": "OKP", "d": "x"}', world.secret):
        (clone / "session.json").write_text(text)
        done = run(world, clone, "cat", "session.json")
        assert (done.returncode, done.stdout) == (125, "")
        assert f"could read {clone / 'session.json'}" in done.stderr
    (clone / "session.json").write_text('{"v": 1}')
    assert run(world, clone, "cat", "session.json").stdout == '{"v": 1}'
    (clone / ".arx").mkdir()
    assert f"could read {clone / '.arx'}" in run(world, clone, "true").stderr
    (clone / ".arx").rmdir()
    world.folder.joinpath("home").mkdir()
    moved = {"HOME": str(clone / "inner")}
    done = subprocess.run(
        world.words("true", options=()),
        cwd=clone,
        env=world.environment() | moved,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "has your home in it: start in the folder of a project" in done.stderr


@needs_box
@pytest.mark.servers
def test_a_home_can_be_kept_and_paths_added(
    place: tuple[RunWorld, Path], tmp_path_factory: pytest.TempPathFactory
) -> None:
    """
    Without --home nothing is kept; --read shows a path, and --write lets the command change one.
    """
    world, clone = place
    home, shown = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("shown")
    (shown / "a").write_text("seen")
    script = f"ls ~; cat {shown}/a; echo x > {shown}/b; echo kept > ~/kept"
    assert run(world, clone, "sh", "-c", script).stdout == ""
    options = ("--home", str(home), "--read", str(shown))
    assert run(world, clone, "sh", "-c", script, options=options).stdout == "seen"
    assert not (shown / "b").exists()
    options = ("--home", str(home), "--write", str(shown))
    assert run(world, clone, "sh", "-c", script, options=options).stdout == "kept\nseen"
    assert (shown / "b").read_text() == "x\n"


@pytest.mark.servers
def test_without_bubblewrap_nothing_is_started(place: tuple[RunWorld, Path]) -> None:
    """
    It fails closed, with what to do.
    """
    world, clone = place
    programs = world.folder / "bin"
    programs.mkdir()
    (programs / "touch").symlink_to("/usr/bin/touch")
    done = subprocess.run(
        world.words("touch", "started", options=()),
        cwd=clone,
        env=world.environment() | {"PATH": str(programs)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 125
    text = (
        "no box: bwrap not found: install bubblewrap, or type --no-box (then programs of your user can read this task)"
    )
    assert text in done.stderr
    assert not (clone / "started").exists()


@each_user
def test_boxes_nest(user: str) -> None:
    """
    A box in the box works for an ordinary user, and has the outer one's front alone.
    """
    if user == "own" and os.geteuid() == 0:
        pytest.skip("the kernel refuses root a /proc of its own in a box: the inner one fails closed")
    inner = (
        "bwrap --unshare-all --die-with-parent --dev-bind / / --proc /proc --tmpfs /var/tmp sh -c 'ls /var/tmp; exit 4'"
    )
    with place_of(user) as folder:
        done = boxed(user, folder, folder / "none", "sh", "-c", inner)
    assert (done.returncode, done.stdout) == (4, ""), done.stderr
