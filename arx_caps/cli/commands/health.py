# SPDX-License-Identifier: Apache-2.0
"""``arx health``: ask a mint, gateway or service whether it is ready, for a container or a service manager."""

from pathlib import Path
from typing import Any, Final

import click

from arx_caps.cli import exit_codes
from arx_caps.cli.access.place import ca_option, realm_dir_option
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import command_options
from arx_caps.cli.terminal import Console, plain
from arx_caps.settings.realm import DEFAULT_LISTEN, Realm
from arx_verifier.errors import SettingsError

TIMEOUT_S: Final = 3.0
MAX_BYTES: Final = 64 * 1024  # of the answer
MAX_REASON: Final = 300  # characters
READY: Final = 200


@click.command("health")
@click.argument("url", required=False)
@ca_option
@realm_dir_option
@command_options
def health_command(console: Console, url: str | None, ca: str | None, realm_dir: Path) -> None:
    """Ask the mint, gateway or service at URL for /readyz.

    A service has it if its developer added the route.

    Without URL it asks where the mint of the realm's folder listens, else at 127.0.0.1:8700.

    Exit code 0: ready; 1: not ready, or no answer within 3 s.
    """
    base, authority = _place(url, ca, realm_dir)
    status, why = _ask(base, authority)
    ready = status == READY
    value = {"url": base, "ready": ready, "status": status, "why": why}
    console.data("health", value, f"{base} is ready" if ready else plain(f"{base} is not ready: {why}"))
    click.get_current_context().exit(exit_codes.OK if ready else exit_codes.DENIED)


def _place(url: str | None, ca: str | None, realm_dir: Path) -> tuple[str, str | None]:
    """Return the server's URL and the file of a further authority."""
    if url is not None:
        if "@" in url or not url.startswith(("http://", "https://")):
            raise Stop("invalid URL: expected http://HOST:PORT or https://HOST:PORT", hint="leave out any login")
        return url.rstrip("/"), ca
    try:
        realm = Realm.open(realm_dir)
    except SettingsError:  # a container of a gateway has no realm
        return f"http://{DEFAULT_LISTEN}", ca
    return realm.local_url, ca or realm.ca


def _ask(base: str, ca: str | None) -> tuple[int | None, str]:
    """Return the status of the answer, None without one, and why the server is not ready."""
    import json

    import httpx

    from arx_caps.http.client import fetch, no_answer
    from arx_verifier.errors import ArxError

    try:
        status, body = fetch(f"{base}/readyz", timeout=TIMEOUT_S, total_s=TIMEOUT_S, longest=MAX_BYTES, ca=ca)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return None, f"it did not answer ({no_answer(error, base)})"
    except ArxError as error:
        return None, str(error)
    if status == READY:
        return status, ""
    try:
        answer: Any = json.loads(body)
        said = answer.get("because") or answer.get("why")
    except (ValueError, AttributeError):
        said = None
    lines = [f"{name}: {why}" for name, why in said.items()] if isinstance(said, dict) else said
    lines = [lines] if isinstance(lines, str) else lines
    reason = "; ".join(map(str, lines)) if isinstance(lines, list) else ""
    return status, (reason or f"it answers {status}")[:MAX_REASON]
