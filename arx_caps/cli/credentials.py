# SPDX-License-Identifier: Apache-2.0
"""What a holder has: one token, with discharges or not, or a bundle, read from a file or stdin.  SPEC 2, 15."""

import os
from collections.abc import Mapping
from typing import Any, Final

import click

from arx_caps.agent.bundle import Bundle
from arx_caps.cli.exit_codes import DENIED, Stop
from arx_caps.cli.secure_files import read_text
from arx_verifier.errors import ArxError
from arx_verifier.token import HOP_BYTES, Caveat, Macaroon, ThirdPartyCaveat, wire

APPROVAL: Final = "`arx token inspect` reads it; it goes along with a call: `arx token explain FILE --approval FILE`"
SCHEMES: Final = ("dpop ", "bearer ", "arx ")  # a token that was copied from a header


class Holding:
    """One token, or the tokens of one task; nothing of it proven.

    Attributes:
        tokens: By audience.
        bundle: What else the bundle says, or None for a single token.
        discharges: What is sent along with a single token.
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
            approvals: Whether an approval's text alone will do.

        Raises:
            Stop: The file cannot be read, or holds neither a token nor a bundle.
        """
        text = read_text(path)
        shown = "stdin" if path == "-" else path
        if text.lower().startswith(SCHEMES):
            text = text.split(maxsplit=1)[-1]
        if not text.startswith((wire.BUNDLE_PREFIX, wire.TOKEN_PREFIX)):
            prefixes = f"({wire.TOKEN_PREFIX}…) nor a bundle ({wire.BUNDLE_PREFIX}…)"
            raise Stop(f"{shown}: neither a token {prefixes}", DENIED, hint=_hint(text), code="malformed_token")
        try:
            if text.startswith(wire.BUNDLE_PREFIX):
                bundle = Bundle.parse(text)
                return cls(bundle.tokens, bundle)
            macaroon, *discharges = map(Macaroon.parse, text.split(wire.JOINT))
            if approvals and not discharges and is_discharge(macaroon):
                return cls({}, None, (macaroon,))
            if is_discharge(macaroon):
                raise Stop(f"{shown}: this is an approval, no token", DENIED, hint=APPROVAL, code="malformed_token")
            return cls({macaroon.unverified_identifier.aud: macaroon}, None, tuple(discharges))
        except ArxError as error:
            raise Stop(f"{shown}: {error}", DENIED, code=error.code) from error

    @property
    def kind(self) -> str:
        """``bundle``, ``token`` or ``approval``."""
        return "bundle" if self.bundle is not None else "token" if self.tokens else "approval"

    def token(self, audience: str) -> Macaroon:
        """Return the token for one service.

        Raises:
            Stop: There is none for it.
        """
        if audience not in self.tokens:
            raise Stop(f"it holds no token for {audience}, only for {', '.join(sorted(self.tokens))}", code="audience")
        return self.tokens[audience]

    def delegate(self, to: str, caveats: Mapping[str, Caveat | None]) -> "Holding":
        """Return what the next holder gets; every token of it has the same link.

        Args:
            to: The next holder's agent path.
            caveats: What is taken from each token; an audience that is not named is left out.

        Raises:
            AttenuationError: A token would become too large, or is a one-shot token.
        """
        hop = os.urandom(HOP_BYTES)
        given = {audience: self.tokens[audience].delegate(to, caveat, hop=hop) for audience, caveat in caveats.items()}
        return Holding(given, None if self.bundle is None else self.bundle.with_tokens(given))

    def encode(self) -> str:
        """Return the text that the next holder is given, a secret."""
        return self.bundle.encode() if self.bundle is not None else next(iter(self.tokens.values())).encode()

    def about(self) -> dict[str, Any]:
        """Return what stands beside the tokens, for JSON."""
        held = self.bundle
        return {} if held is None else {"agent": held.agent, "issuer": held.issuer, "task": held.task}


def read_bundle(path: str) -> Bundle:
    """Read a task's bundle from a file or stdin.

    Args:
        path: The file, or ``-``.

    Raises:
        Stop: The file cannot be read, or holds neither a token nor a bundle.
        click.BadParameter: It holds a single token.
    """
    bundle = Holding.read(path).bundle
    if bundle is None:
        raise click.BadParameter("a single token is no task; give the bundle", param_hint="--in")
    return bundle


def is_discharge(macaroon: Macaroon) -> bool:
    """Return whether it is a discharge, which is an approval's text, not a token."""
    try:
        ThirdPartyCaveat.read(macaroon.identifier)
    except ArxError:
        return False
    return True


def _hint(text: str) -> str | None:
    """Return a hint on where a token comes from, if the text is another of ARx's files."""
    if not text.startswith("{"):
        return None
    return "this is JSON, such as a key, session or service file; `arx task start … --out FILE` writes a bundle"
