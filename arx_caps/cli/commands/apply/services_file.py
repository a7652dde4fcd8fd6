# SPDX-License-Identifier: Apache-2.0
"""The file of ``arx apply``: a table ``[service.NAME]`` for each service.

It has no secret.  Reading is strict: a key that is ignored may have been meant as a restriction.
"""

import re
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Final

from arx_caps.cli.exit_codes import Stop
from arx_caps.mint.policy.model import MAX_MISTAKES, read_policy_text
from arx_caps.mint.policy.parse import PolicyEntry, PolicyTable, checked_text, text_that
from arx_verifier.errors import SettingsError, shorten
from arx_verifier.names import is_audience
from arx_verifier.revocation import without_login

TABLE: Final = "service"
_HINTS: Final = {"audience": "write [service.NAME] here; [audience.NAME] belongs to the policy (`arx policy load`)"}
MAX_NAME: Final = 64
_STORE: Final = re.compile(r"(?:unix|rediss?|rediss?\+sentinel|rediss?\+cluster|relays?|relay\+unix)://[^\s]+")
_FOREIGN: Final = re.compile(r"[^a-z0-9._-]+")


def _wrong_name(name: str) -> str | None:
    if is_audience(name):
        return None
    near = _FOREIGN.sub("-", name.lower()).strip("._-")[:MAX_NAME]
    meant = f"; did you mean `{near}`?" if is_audience(near) and near != name else ""
    expected = f"[a-z0-9][a-z0-9._-]*, at most {MAX_NAME}, not beginning with arx"
    return f"expected a service's name: {expected}; got {shorten(name)}{meant}"


def _wrong_store(url: str) -> str | None:
    # The URL is not quoted: it may have a password.
    if without_login(url) != url:
        return "expected a URL without user and password; the service has its password in ARX_STORE_PASSWORD"
    if not url.isprintable() or not _STORE.fullmatch(url):
        return "expected the URL of a store or of a relay, such as redis://store.internal:6379 or relay://…"
    return None


class ServiceTerms(PolicyTable, frozen=True, kw_only=True):
    """A service of the file.

    Attributes:
        name: The table's name: the service's audience.
        store: URL of the revocation store, or of a relay, as the service reaches it; None for the mint's.
        journal: The folder of the decision journal on the service's machine; None for one beside the service file.
    """

    name: Annotated[str, checked_text(_wrong_name)]
    store: Annotated[str, checked_text(_wrong_store)] | None = None
    journal: Annotated[str, text_that(lambda text: PurePosixPath(text).is_absolute(), "an absolute path")] | None = None

    def invited(self) -> dict[str, str]:
        """Return what the invitation has of the table, for ``arx service enrol``."""
        written = {"store": self.store, "journal": self.journal}
        return {name: value for name, value in written.items() if value is not None}

    def is_in(self, invitation: Mapping[str, Any]) -> bool:
        """Return whether an invitation has what the table has."""
        return {name: invitation[name] for name in ("store", "journal") if name in invitation} == self.invited()


def load_services(path: str) -> list[ServiceTerms]:
    """Return the services of a file, in its order.

    Raises:
        Stop: It cannot be read, or has mistakes: the first is the message, others are ``further``.
    """
    try:
        root = PolicyEntry(read_policy_text(Path(path)))
    except SettingsError as error:
        raise Stop(str(error), code="file") from error
    mistakes: list[SettingsError] = []
    services: list[ServiceTerms] = []
    for key in root.text.document.keys() - {TABLE}:
        try:
            root.refuse_unknown((key,), (TABLE,), _HINTS)
        except SettingsError as error:
            mistakes.append(error)
    tables = root.text.document.get(TABLE, {})
    if not isinstance(tables, dict):
        mistakes.append(root.at(TABLE).error(f"expected tables [service.NAME], got {shorten(tables)}"))
        tables = {}
    for name, data in tables.items():
        try:
            services.append(_read(root.at(TABLE, name), name, data))
        except SettingsError as error:
            mistakes.append(error)
    if not mistakes and not services:
        raise Stop(f"{path}: expected at least one table [service.NAME], got none", code="file")
    if mistakes:
        first, *further = map(str, sorted(mistakes, key=lambda error: root.text.line(getattr(error, "path", ()))))
        raise Stop(first, code="file", further=further[: MAX_MISTAKES - 1])
    return services


def _read(entry: PolicyEntry, name: str, data: Any) -> ServiceTerms:
    for key, value in data.items() if isinstance(data, dict) else ():
        if isinstance(value, dict) and is_audience(f"{name}.{key}"):
            raise entry.at(key).error(f'unknown key; a name with a dot is in quotes: [service."{name}.{key}"]')
    terms = entry.read(ServiceTerms, data, name=name)
    assert isinstance(terms, ServiceTerms)
    return terms
