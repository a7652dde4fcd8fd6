# SPDX-License-Identifier: Apache-2.0
"""Read a token, with or without discharges, or a bundle from a file or stdin.  SPEC 2, 15."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import click

from arx_caps.agent.tasks.bundle import Bundle
from arx_caps.cli.access.secure_files import read_text
from arx_caps.cli.exit_codes import DENIED, Stop
from arx_verifier.errors import ArxError
from arx_verifier.token import wire
from arx_verifier.token.discharge import ThirdPartyCaveat
from arx_verifier.token.holder import HolderKey
from arx_verifier.token.macaroon import Macaroon

APPROVAL: Final = "`arx token inspect FILE` shows it; `arx token explain TOKEN --approval FILE` explains a call with it"
SCHEMES: Final = ("dpop ", "bearer ", "arx ")  # before a token that was copied from a header


class Holding:
    """One token, or the tokens of one task; not verified.

    Attributes:
        tokens: The tokens by audience.
        bundle: The bundle that has them, or None for a single token.
        discharges: The discharges that are sent with a single token.
    """

    __slots__ = ("bundle", "discharges", "tokens")

    def __init__(
        self, tokens: Mapping[str, Macaroon], bundle: Bundle | None, discharges: tuple[Macaroon, ...] = ()
    ) -> None:
        self.tokens, self.bundle, self.discharges = tokens, bundle, discharges

    @classmethod
    def read(cls, path: str, *, approvals: bool = False) -> "Holding":
        """Read a holding from a file or stdin.

        Args:
            path: The file, or ``-``.
            approvals: Whether an approval without a token is accepted.

        Raises:
            Stop: The file cannot be read, or has neither a token nor a bundle.
        """
        text = read_text(path)
        shown = "stdin" if path == "-" else path
        # Such as the value of an Authorization header in a log or a proxy.
        if text.lower().startswith(SCHEMES):
            text = text.split(maxsplit=1)[-1]
        if not text.startswith((wire.BUNDLE_PREFIX, wire.TOKEN_PREFIX)):
            prefixes = f"({wire.TOKEN_PREFIX}…) or a bundle ({wire.BUNDLE_PREFIX}…)"
            raise Stop(f"{shown}: expected a token {prefixes}", DENIED, hint=_hint(text), code="malformed_token")
        try:
            if text.startswith(wire.BUNDLE_PREFIX):
                bundle = Bundle.parse(text)
                return cls(bundle.tokens, bundle)
            macaroon, *discharges = map(Macaroon.parse, text.split(wire.JOINT))
            if approvals and not discharges and is_discharge(macaroon):
                return cls({}, None, (macaroon,))
            if is_discharge(macaroon):
                raise Stop(
                    f"{shown}: expected a token or bundle, got an approval",
                    DENIED,
                    hint=APPROVAL,
                    code="malformed_token",
                )
            return cls({macaroon.unverified_identifier.aud: macaroon}, None, tuple(discharges))
        except ArxError as error:
            raise Stop(f"{shown}: {error}", DENIED, hint=error.hint, code=error.code) from error

    @property
    def kind(self) -> str:
        """``bundle``, ``token`` or ``approval``."""
        return "bundle" if self.bundle is not None else "token" if self.tokens else "approval"

    def token(self, audience: str) -> Macaroon:
        """Return the token for one service.

        Raises:
            Stop: It has no token for this service.
        """
        if audience not in self.tokens:
            raise Stop(f"no token for {audience}: expected one of {', '.join(sorted(self.tokens))}", code="audience")
        return self.tokens[audience]

    def with_tokens(self, tokens: Mapping[str, Macaroon]) -> "Holding":
        """Return other tokens in place of these."""
        return Holding(tokens, None if self.bundle is None else self.bundle.with_tokens(tokens))

    @property
    def is_bound(self) -> bool:
        """Whether its tokens are bound to the key of their holder."""
        return any(macaroon.bound_to is not None for macaroon in self.tokens.values())

    def encode(self) -> str:
        """Return the text of the token or bundle, a secret."""
        return self.bundle.encode() if self.bundle is not None else next(iter(self.tokens.values())).encode()

    def about(self) -> dict[str, Any]:
        """Return the bundle's other members, for JSON."""
        held = self.bundle
        return {} if held is None else {"agent": held.agent, "issuer": held.issuer, "task": held.task}


holder_key_option = click.option(
    "--holder-key",
    type=click.Path(dir_okay=False, path_type=Path),
    envvar="ARX_HOLDER_KEY_FILE",
    help="file with the key that a bound task is bound to, or a session file [content: ARX_HOLDER_KEY]",
)


def read_holder_key(file: Path | None) -> HolderKey | None:
    """Return the holder's key of the option or the environment; None without one.

    Args:
        file: The value of ``holder_key_option``.

    Raises:
        SettingsError: The file cannot be read, other users can read it, or it has no such key.
    """
    from arx_caps.agent.tasks.holder_key import find_holder_key, load_holder_key

    return find_holder_key() if file is None else load_holder_key(file)


def read_bundle(path: str) -> Bundle:
    """Read a task's bundle from a file or stdin.

    Args:
        path: The file, or ``-``.

    Raises:
        Stop: The file cannot be read, or has neither a token nor a bundle.
        click.BadParameter: The file has a single token.
    """
    bundle = Holding.read(path).bundle
    if bundle is None:
        raise click.BadParameter("expected the bundle of a task, got a single token", param_hint="--in")
    return bundle


def is_discharge(macaroon: Macaroon) -> bool:
    """Return whether *macaroon* is a discharge, the text of an approval."""
    try:
        ThirdPartyCaveat.read(macaroon.identifier)
    except ArxError:
        return False
    return True


def _hint(text: str) -> str | None:
    """Return a hint for a JSON file, which is another of ARx's files; else None."""
    if not text.startswith("{"):
        return None
    return "this is JSON, such as a key, session or service file: `arx task start … --out FILE` writes a bundle"
