# SPDX-License-Identifier: Apache-2.0
"""The file of ``arx apply``: a table ``[service.NAME]`` for each service.

It has no secret.  Reading is strict: a key that is ignored may have been meant as a restriction.
"""

import re
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Final

from arx_caps.settings.toml_file import (
    SECRET,
    UNWRITTEN,
    TomlEntry,
    TomlTable,
    checked_text,
    read_toml,
    several,
    synonyms,
    text_that,
)
from arx_verifier.errors import shorten
from arx_verifier.names import is_audience
from arx_verifier.revocation.store_url import without_login

_SYNONYMS: Final = synonyms(
    {"audience": "write [service.NAME] here; [audience.NAME] belongs to the policy (`arx policy load`)"}
)
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


class ServiceTerms(TomlTable, frozen=True, kw_only=True):
    """A service of the file.

    Attributes:
        name: The table's name: the service's audience.
        store: URL of the revocation store, or of a relay, as the service reaches it; None for the mint's.
        journal: The folder of the decision journal on the service's machine; None for one beside the service file.
    """

    name: Annotated[str, checked_text(_wrong_name), UNWRITTEN]
    store: Annotated[str, SECRET, checked_text(_wrong_store)] | None = None
    journal: Annotated[str, text_that(lambda text: PurePosixPath(text).is_absolute(), "an absolute path")] | None = None

    def invited(self) -> dict[str, str]:
        """Return what the invitation has of the table, for ``arx service enrol``."""
        written = {"store": self.store, "journal": self.journal}
        return {name: value for name, value in written.items() if value is not None}

    def is_in(self, invitation: Mapping[str, Any]) -> bool:
        """Return whether an invitation has what the table has."""
        return {name: invitation[name] for name in ("store", "journal") if name in invitation} == self.invited()


class ServicesFile(TomlTable, frozen=True, kw_only=True):
    """The tables of the file."""

    service: Annotated[dict[str, ServiceTerms], several("table", "for example [service.orders]")]


def load_services(path: str) -> list[ServiceTerms]:
    """Return the services of a file, in its order.

    Raises:
        SettingsError: It cannot be read, or has mistakes.
    """
    entry = TomlEntry(read_toml(path, "file"))
    file: ServicesFile = entry.read(Annotated[ServicesFile, _SYNONYMS], entry.text.document)
    return list(file.service.values())
