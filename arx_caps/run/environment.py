# SPDX-License-Identifier: Apache-2.0
"""The environment of the command: proxy, authorities, placeholders, settings of git and gh; no secret of the starter.

Programs read a proxy and an authority from variables of their own.  https://everything.curl.dev/usingcurl/proxies/env
"""

import json
import os
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Final

PLACEHOLDER: Final = "arx-run-no-secret"  # programs do not start without a key; the front drops it
_KEY_OF: Final = {
    "api.anthropic.com": "ANTHROPIC_API_KEY",
    "api.github.com": "GH_TOKEN",
    "api.openai.com": "OPENAI_API_KEY",
    "generativelanguage.googleapis.com": "GEMINI_API_KEY",
}
_AUTHORITIES: Final = (
    *("SSL_CERT_FILE", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "AWS_CA_BUNDLE"),
    *("GIT_SSL_CAINFO", "NODE_EXTRA_CA_CERTS"),
)
_INHERITED: Final = (
    *("CI", "COLORTERM", "EDITOR", "FORCE_COLOR", "LANG", "LANGUAGE", "LOGNAME", "NO_COLOR", "PAGER", "PATH", "SHELL"),
    *("TERM", "TERM_PROGRAM", "TZ", "USER", "VISUAL"),
)


def environment(
    *,
    proxy: str,
    ca_file: Path,
    home: Path,
    folder: Path,
    hosts: Collection[str],
    socket: Path | None = None,
    passed: Iterable[str] = (),
    git_settings: Iterable[tuple[str, str]] = (),
) -> dict[str, str]:
    """Return all variables of the command, and write the settings of gh.

    Args:
        proxy: The URL of the front.
        ca_file: The front's authority, in PEM.
        home: The command's home.
        folder: A folder of this run, which the command may read.
        hosts: The hosts of the task's upstreams.
        socket: The front's Unix socket, for gh.
        passed: Names of further variables of this process that the command gets.
        git_settings: Further settings of git, names and values.
    """
    found = {name: value for name, value in os.environ.items() if name in _INHERITED or name.startswith("LC_")}
    found |= {name: os.environ[name] for name in passed if name in os.environ}
    found.setdefault("PATH", os.defpath)
    found |= {"HOME": str(home), "HTTPS_PROXY": proxy, "https_proxy": proxy, "NO_PROXY": "", "no_proxy": ""}
    found |= dict.fromkeys(_AUTHORITIES, str(ca_file))
    # Else git with GnuTLS reads all authorities of the machine for each connection, 0.1 s.
    none = folder / "authorities"
    none.mkdir(mode=0o700, exist_ok=True)
    found["GIT_SSL_CAPATH"] = str(none)
    # Settings of npm for the whole machine outrank the variable of the proxy.
    found |= {"NODE_USE_ENV_PROXY": "1", "npm_config_globalconfig": "/dev/null"}
    found |= {_KEY_OF[host]: PLACEHOLDER for host in hosts if host in _KEY_OF}
    found |= _gh(folder / "gh", socket)
    return found | _git(sorted(hosts), git_settings)


def _gh(folder: Path, socket: Path | None) -> dict[str, str]:
    """Write the settings of gh: it sends plain HTTP to the front's socket, since Go on macOS reads no authority."""
    folder.mkdir(mode=0o700, exist_ok=True)
    lines = ['version: "1"', "git_protocol: https"]
    lines += [f"http_unix_socket: {json.dumps(str(socket))}"] if socket is not None else []
    (folder / "config.yml").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"GH_CONFIG_DIR": str(folder), "GH_NO_UPDATE_NOTIFIER": "1", "GH_PROMPT_DISABLED": "1"}


def _git(hosts: Iterable[str], settings: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return settings of git as variables: addresses of ssh become those of https, and no password is asked for."""
    pairs = [
        (f"url.https://{host}/.insteadOf", form) for host in hosts for form in (f"git@{host}:", f"ssh://git@{host}/")
    ]
    found = {"GIT_TERMINAL_PROMPT": "0"}
    for number, (key, value) in enumerate([*pairs, *settings]):
        found |= {f"GIT_CONFIG_KEY_{number}": key, f"GIT_CONFIG_VALUE_{number}": value}
        found["GIT_CONFIG_COUNT"] = str(number + 1)
    return found
