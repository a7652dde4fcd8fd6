# SPDX-License-Identifier: Apache-2.0
"""Attribution of commits: the person as author, trailers for agent and task.  It is no proof: a push's record is.

githooks(5).  The command can undo it, as it writes its own commits.
"""

import contextlib
import os
import shlex
import subprocess
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from arx_caps.agent import Task

# Of a repository in which a command works; those of a server are not here.
_HOOKS: Final = (
    *("applypatch-msg", "pre-applypatch", "post-applypatch", "pre-commit", "pre-merge-commit", "prepare-commit-msg"),
    *("commit-msg", "post-commit", "pre-rebase", "post-checkout", "post-merge", "pre-push", "pre-auto-gc"),
    *("post-rewrite", "sendemail-validate"),
)
# Git starts these several times in each commit and push.
_FREQUENT: Final = ("reference-transaction", "post-index-change")
# `core.hooksPath` switches the repository's own hooks off, so each of these runs them, by git's own rule without it.
# A message from the editor gets its trailers behind the editor: one that is left empty still ends the commit.
_HOOK: Final = r"""#!/bin/sh
name=${{0##*/}}
own=$(unset GIT_CONFIG_COUNT; git rev-parse --git-path hooks)/$name
if [ -x "$own" ]; then "$own" "$@" || exit; fi
case "$name:$2" in
prepare-commit-msg:message | prepare-commit-msg:merge | prepare-commit-msg:squash | prepare-commit-msg:commit) ;;
commit-msg:*) ;;
*) exit 0 ;;
esac
if git stripspace --strip-comments <"$1" | grep -q .; then
  git interpret-trailers --in-place --if-exists addIfDifferent {trailers} "$1"
fi
"""


def git_settings(task: Task, folder: Path, work: Path) -> dict[str, str]:
    """Return settings of git that attribute commits to a task, and write the hooks that they name.

    Args:
        task: The task.
        folder: A folder of this run, which the command may read.
        work: The folder in which the command starts.
    """
    trailers = (f"Agent: {task.holder}", f"ARx-Task: {task.id}")
    hooks = folder / "hooks"
    hooks.mkdir(mode=0o700)
    hook = hooks / _HOOKS[0]
    hook.write_text(_HOOK.format(trailers=" ".join(f"--trailer {shlex.quote(each)}" for each in trailers)), "utf-8")
    hook.chmod(0o500)
    own = _own_hooks(work)
    for name in (*_HOOKS[1:], *(each for each in _FREQUENT if (own / each).exists())):
        (hooks / name).symlink_to(hook.name)
    person = task.bundle.outline.identifier.subject
    if person is None:
        return {"core.hooksPath": str(hooks)}
    issuer, name = person
    email = name if "@" in name else f"{name}@{urlsplit(issuer).hostname or 'localhost'}"
    return {"core.hooksPath": str(hooks), "user.name": name, "user.email": email}


def _own_hooks(work: Path) -> Path:
    """Return the folder of the hooks of a repository; one without hooks outside of a repository."""
    words = ("git", "-C", str(work), "rev-parse", "--git-path", "hooks")
    with contextlib.suppress(OSError, subprocess.CalledProcessError):  # no git, or no repository
        found = subprocess.run(words, capture_output=True, text=True, check=True)
        return work / found.stdout.rstrip("\n")
    return Path(os.devnull)
