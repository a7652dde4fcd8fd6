# SPDX-License-Identifier: Apache-2.0
"""The key of an agent or an operator that a command enrols: a new one in a file, or an existing one."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final, Literal

import click

from arx_caps.cli.access.mint_session import Caller, Unreachable
from arx_caps.cli.access.place import Place
from arx_caps.cli.access.secure_files import read_object
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import options_of
from arx_caps.credentials.keyfile import KeyFile, PublicKey

key_options: Final = options_of(
    click.option("--key-out", type=click.Path(path_type=Path), help="new file for a new key (mode 0600)"),
    click.option("--public-jwk", metavar="FILE", help="file with the public key to enrol, as JWK"),
)


@contextlib.contextmanager
def key_to_enrol(
    place: Place,
    role: Literal["agent", "operator"],
    name: str,
    key_out: Path | None,
    public_jwk: str | None,
    *,
    check: str,
) -> Iterator[tuple[Caller, PublicKey]]:
    """Give the mint, and the public key that is enrolled in this context; a refused new key is deleted.

    Args:
        place: The realm.
        role: Whose key it is.
        name: The agent's path, or the operator's name.
        key_out: The file for a new key.
        public_jwk: The file of an existing key.
        check: The command that shows whether the key is enrolled.

    Raises:
        click.UsageError: None of the files is given, or both.
        Stop: The mint refuses the key, or does not answer.
    """
    if (key_out is None) == (public_jwk is None):
        raise click.UsageError("expected --key-out FILE for a new key, or --public-jwk FILE for an existing one")
    public = None if public_jwk is None else PublicKey(read_object(public_jwk))
    mint = place.mint()
    if public is None:
        assert key_out is not None
        # The key is saved before the call: an enrolled key without its file would be lost.
        key = KeyFile.generate(role, name, mint.issuer)
        key.save(key_out)
        public = key.key.public
    try:
        yield mint, public
    except Unreachable as error:
        error.hint = f"the key may be enrolled{f', so {key_out} is kept' if key_out else ''}: check with `{check}`"
        raise
    except Stop:
        if key_out is not None:
            key_out.unlink(missing_ok=True)
        raise
