# SPDX-License-Identifier: Apache-2.0
"""The line that installs a further part of ARx where this process runs from."""

import importlib.metadata
import json
import shlex
import urllib.parse
import urllib.request


def install_line(extra: str) -> str:
    """Return the command that adds an extra to the installed package.

    A checkout or a file is named by its address (PEP 610): the name of the package would find another copy in an index.

    Args:
        extra: The extra's name in ``pyproject.toml``, such as ``gateway``.
    """
    try:
        recorded = importlib.metadata.distribution("arx-caps").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:  # run from its source
        recorded = None
    origin = json.loads(recorded) if recorded else {}
    folder = origin.get("dir_info")
    if folder is None:
        address = f" @ {origin['url']}" if origin.get("url", "").startswith("file:") else ""
        return f"pip install {shlex.quote(f'arx-caps[{extra}]{address}')}"
    path = urllib.request.url2pathname(urllib.parse.urlsplit(origin["url"]).path)
    return f"pip install {'-e ' if folder.get('editable') else ''}{shlex.quote(f'{path}[{extra}]')}"
