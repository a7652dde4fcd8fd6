# SPDX-License-Identifier: Apache-2.0
"""What an isolated program may use: its own files, what its table names, and nothing that leads elsewhere."""

import dataclasses
import os
import shutil
import stat
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import pytest

from arx_caps.isolation import choice as choices
from arx_caps.isolation.choice import isolate, kind_that_works
from arx_caps.isolation.program import Program
from arx_verifier.errors import SettingsError
from tests.servers import until

BOXED = pytest.mark.skipif(kind_that_works() is None, reason="no isolation works on this machine")


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """A shell, a secret of its starter, and a folder for each purpose."""
    for name in ("data", "gateway", "tools"):
        (tmp_path / name).mkdir()
    secret = tmp_path / "gateway" / "orders.json"
    secret.write_text("the key")
    home = tmp_path / "gateway" / "servers" / "orders"
    return Program(name="upstream.orders", command=("/bin/sh",), environment={}, home=home, protected=(secret,))


def run(program: Program, script: str, kind: str = "auto") -> str:
    """Run a script of the shell in the place of the program, and return what it wrote."""
    isolation = isolate(program, kind)
    try:
        start = isolation.start_of(("/bin/sh", "-c", script))
        done = subprocess.run(start.command, env=dict(isolation.environment), capture_output=True, check=False)
    finally:
        isolation.close()
    return (done.stdout + done.stderr).decode()


@BOXED
def test_it_reads_and_writes_what_is_named(program: Program, tmp_path: Path) -> None:
    """And its own folder, which lasts; ``reads`` cannot be written."""
    (tmp_path / "tools" / "x").write_text("a tool")
    (tmp_path / "data" / "x").write_text("data")
    named = dataclasses.replace(program, reads=(tmp_path / "tools",), writes=(tmp_path / "data",))
    script = f"cd; pwd; echo kept > own; cat {tmp_path}/*/x; echo new > {tmp_path}/data/y; echo no > {tmp_path}/tools/y"
    wrote = run(named, script)
    assert wrote.startswith(f"{program.home}\ndataa tool")
    assert "Read-only file system" in wrote
    assert (tmp_path / "data" / "y").read_text() == "new\n"
    assert (program.home / "own").read_text() == "kept\n"
    assert stat.S_IMODE(program.home.stat().st_mode) == 0o700
    assert run(named, "cat own; ls /tmp") == "kept\n" if not str(tmp_path).startswith("/tmp") else True
    assert "No such file" in run(program, f"cat {tmp_path}/data/x")


@BOXED
def test_its_environment_is_its_own(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """PATH, the language, a home, and what its table has."""
    monkeypatch.setenv("SECRET_OF_THE_STARTER", "s3cret")
    monkeypatch.setenv("TMPDIR", "/elsewhere")
    wrote = run(dataclasses.replace(program, environment={"MODE": "a b"}), "env").splitlines()
    names = {line.partition("=")[0] for line in wrote}
    assert names <= {"PATH", "LANG", "LC_ALL", "HOME", "USER", "LOGNAME", "MODE", "PWD", "OLDPWD", "SHLVL", "_"}
    assert {"MODE=a b", f"HOME={program.home}"} <= set(wrote)


@BOXED
def test_it_ends_with_its_starter(program: Program, tmp_path: Path) -> None:
    """With all its children, also when the starter is killed."""
    named = dataclasses.replace(program, writes=(tmp_path / "data",))
    isolation = isolate(named, "auto")
    if isolation.kind == "systemd":
        pytest.skip("under systemd it ends with the service of its starter")
    script = f"setsid sh -c 'while :; do date +%s%N > {tmp_path}/data/beat; sleep 0.05; done' & sleep 600"
    start = isolation.start_of(("/bin/sh", "-c", script)).command
    own = str(os.getpid())
    code = f"import os, subprocess, sys; subprocess.Popen([a.replace('{own}', str(os.getpid())) if a == '{own}' else a "
    code += f"for a in {list(start)!r}]); print(flush=True); sys.stdin.read()"
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code], stdin=pipe, stdout=pipe) as starter:
        beat = tmp_path / "data" / "beat"
        until(lambda: beat.exists() and beat.read_text())
        starter.kill()
        starter.wait()

        def is_still() -> bool:
            before = beat.read_text()
            subprocess.run(["sleep", "0.5"], check=True)
            return before == beat.read_text()

        until(is_still)


@BOXED
def test_a_program_of_a_virtual_environment(program: Program, tmp_path: Path) -> None:
    """Its links lead to an interpreter elsewhere, and a script names that one in its first line, short or long."""
    venv.create(tmp_path / "tools" / "env", symlinks=True)
    folder = tmp_path / "tools" / "env" / "bin"
    for name, first in {
        "short": f"#!{folder}/python",
        "long": f"#!/bin/sh\n'''exec' \"{folder}/python\" \"$0\" \"$@\"\n' '''",
        "found": "#!/usr/bin/env python",
    }.items():
        (folder / name).write_text(f"{first}\nprint('runs')\n")
        (folder / name).chmod(0o755)
        path = {"PATH": f"{folder}:{os.environ['PATH']}"}
        isolation = isolate(dataclasses.replace(program, command=(str(folder / name),), environment=path), "auto")
        start = isolation.start()
        done = subprocess.run(start.command, env=dict(isolation.environment), capture_output=True, check=False)
        assert done.stdout == b"runs\n", (name, done)


@BOXED
@pytest.mark.parametrize("shown", [(), ("shown",)])
def test_a_program_behind_links(program: Program, tmp_path: Path, shown: tuple[str, ...]) -> None:
    """It is a link in a folder of ``reads``, or a relative one in a folder of programs that is a link itself."""
    for name in ("shown", "linked", "kept/bin", "kept/lib"):
        (tmp_path / name).mkdir(parents=True)
    script = tmp_path / "kept" / "lib" / "real"
    script.write_text("#!/bin/sh\necho runs\n")
    script.chmod(0o755)
    (tmp_path / "shown" / "program").symlink_to("../kept/lib/real")
    (tmp_path / "kept" / "bin" / "program").symlink_to("../lib/real")
    (tmp_path / "linked" / "bin").symlink_to("../kept/bin")
    for place in ("shown/program", "linked/bin/program", "kept/bin/program"):
        named = dataclasses.replace(
            program, command=(str(tmp_path / place),), reads=tuple(tmp_path / each for each in shown)
        )
        isolation = isolate(named, "auto")
        done = subprocess.run(
            isolation.start().command, env=dict(isolation.environment), capture_output=True, check=False
        )
        isolation.close()
        assert done.stdout == b"runs\n", (place, done)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"reads": ("nothing",)}, "reads: expected a file or folder, found none at {}/nothing"),
        (
            {"writes": ("gateway",)},
            "writes: expected a path without files of ARx, got {0}/gateway, which would show {0}",
        ),
        ({"reads": ("gateway/orders.json",)}, "reads: expected a path without files of ARx"),
        ({"writes": ("",)}, "writes: expected a path without files of ARx"),
        ({"home": "gateway"}, "home: expected a path without files of ARx"),
        (
            {"writes": ("data",), "reads": ("data/inner",)},
            "reads: {0}/data/inner is within {0}/data, which the program",
        ),
        (
            {"command": ("/bin/sh", "{}/data")},
            'command: the isolated program cannot see {0}/data; add reads = ["{0}/data"]',
        ),
        ({"command": ("/bin/sh", "--folder={}/data")}, "command: the isolated program cannot see {0}/data; add reads"),
        ({"command": ("no-such-program",)}, "command: no-such-program: expected a program, found none; install it"),
        ({"user": "no such user"}, "user: expected a user of this machine, got 'no such user'"),
        ({"user": "root"}, "user: expected another user than root and that of ARx, got root"),
    ],
)
def test_a_wrong_table_is_refused(program: Program, tmp_path: Path, changes: dict[str, Any], error: str) -> None:
    """With the member and what to do, on every machine."""
    (tmp_path / "data" / "inner").mkdir()
    given: dict[str, Any] = {}
    for name, value in changes.items():
        paths = [tmp_path / each for each in value] if name in ("reads", "writes") else []
        given[name] = tuple(paths) or value
    if "home" in given:
        given["home"] = tmp_path / given["home"]
    if "command" in given:
        given["command"] = tuple(each.format(tmp_path) for each in given["command"])
    with pytest.raises(SettingsError) as refused:
        isolate(dataclasses.replace(program, **given), "auto")
    assert str(refused.value).startswith(f"upstream.orders: {error.format(tmp_path)}")


@pytest.mark.parametrize("option", ["", "--script="])
def test_a_file_here_is_none_of_the_working_folder(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    """The name of a file beside the gateway's is refused: the program would look for it in its own folder."""
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    (here / "server.py").touch()
    (here / "serve").touch()
    given = dataclasses.replace(program, home=tmp_path / "home", command=("/bin/sh", f"{option}server.py"))
    with pytest.raises(SettingsError, match=r"working folder .*/home, got server.py") as refused:
        given.check()
    assert str(refused.value).endswith(f'write "{here}/server.py" in its place, and add reads = ["{here}/server.py"]')
    words = ("/bin/sh", f"{option}serve", f"{option}other.py")  # the second is a word, the last no file
    dataclasses.replace(given, command=words).check()
    given.home.mkdir()
    (given.home / "server.py").touch()
    given.check()


def test_a_machine_without_any_isolation(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each one is named with its reason, and the lines that would do."""
    monkeypatch.setattr(
        shutil, "which", lambda name, path=None: None if name in ("bwrap", "systemd-run") else "/bin/sh"
    )
    with pytest.raises(SettingsError) as refused:
        isolate(program, "auto")
    assert str(refused.value) == (
        'upstream.orders: isolation = "auto" does not work here (bubblewrap: no program bwrap; systemd: systemd does '
        'not run this machine; user: `user` is not set); run `apt install bubblewrap`, or set isolation = "user" and '
        'user = "NAME", or isolation = "none"'
    )
    assert isolate(program, "none").kind == "none"


def test_an_isolation_that_shows_a_secret_is_not_taken(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried with a real process: here one that does not isolate."""
    lame = {"bubblewrap": lambda given: dataclasses.replace(choices.none_start(given), kind="none")}
    monkeypatch.setattr(choices, "_MAKERS", lame)
    with pytest.raises(SettingsError, match=r"bubblewrap: the program could read .*/orders.json: run `chmod go-rwx"):
        isolate(program, "auto")


@pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
def test_a_machine_that_forbids_user_namespaces(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the images of containers do: the error has the kernel's own, and what to do."""
    monkeypatch.setattr(choices, "_MAKERS", {"bubblewrap": choices.bubblewrap_start})
    monkeypatch.setattr("arx_caps.isolation.start._launched", in_a_box_without_namespaces)
    with pytest.raises(SettingsError, match=r"bubblewrap: bwrap: .*allow user namespaces on this machine, or set"):
        isolate(program, "auto")


def in_a_box_without_namespaces(_: object, command: tuple[str, ...]) -> tuple[str, ...]:
    """Return the start of a command where no further user namespace can be made."""
    outer = ["bwrap", "--unshare-user", "--disable-userns", "--dev-bind", "/", "/", "--proc", "/proc"]
    return (*outer, *command)


@BOXED
def test_a_program_that_it_can_replace(program: Program, tmp_path: Path) -> None:
    """A link in a folder where it may write leads the next start to no other place."""
    for folder in ("data", "elsewhere/bin"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    (tmp_path / "elsewhere" / "key").write_text("s3cret")
    (tmp_path / "elsewhere" / "bin" / "tool").write_text("#!/bin/sh\n")
    (tmp_path / "elsewhere" / "bin" / "tool").chmod(0o755)
    (tmp_path / "data" / "tool").symlink_to(tmp_path / "elsewhere" / "bin" / "tool")
    command = (str(tmp_path / "data" / "tool"),)
    assert "s3cret" in run(dataclasses.replace(program, command=command), f"cat {tmp_path}/elsewhere/key")
    named = dataclasses.replace(program, command=command, writes=(tmp_path / "data",))
    assert "No such file" in run(named, f"cat {tmp_path}/elsewhere/key")


@BOXED
def test_a_folder_that_became_a_link(program: Program, tmp_path: Path) -> None:
    """Another server that may write beside it leads it to a secret: it is not started."""
    isolation = isolate(dataclasses.replace(program, writes=(tmp_path / "data",)), "auto")
    (tmp_path / "data").rmdir()
    (tmp_path / "data").symlink_to(tmp_path / "gateway")
    with pytest.raises(SettingsError, match="has become a link since the start; reload the gateway"):
        isolation.start()
