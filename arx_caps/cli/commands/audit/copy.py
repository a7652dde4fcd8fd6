# SPDX-License-Identifier: Apache-2.0
"""``arx audit copy``: a log's files for somebody who checks them elsewhere.  SPEC 17.3."""

from collections.abc import Callable
from pathlib import Path

import click

from arx_caps.cli import exit_codes
from arx_caps.cli.exit_codes import Stop
from arx_caps.cli.options import common_options, pass_console
from arx_caps.cli.place import Place, operator_options
from arx_caps.cli.progress import Progress
from arx_caps.cli.terminal import Console, pairs
from arx_caps.realm import Realm


@click.command("copy")
@click.argument("directory", type=click.Path(file_okay=False, path_type=Path))
@click.option("--remote", is_flag=True, help="from the mint, as an operator: each file is a call, and recorded")
@operator_options
@common_options
@pass_console
def copy_command(console: Console, place: Place, directory: Path, *, remote: bool) -> None:
    """Copy the log's files, of one checkpoint, from the realm's `log` folder or from the mint.

    The mint may run and write meanwhile.  A DIRECTORY that has an older copy gets what is new, and only if that
    continues it: exits with 1 where it does not, 3 where a file is not there.  `arx audit verify` checks the copy.
    """
    from arx_caps.audit.merkle import IncompleteError, NoteError, TamperedError, copy_log, fetch_from

    fetch = _from_mint(place) if remote else fetch_from(Realm.open(place.realm_dir).log_dir)
    try:
        with Progress(console) as progress:
            copied = copy_log(fetch, directory, progress.tell)
    except OSError as error:
        raise Stop(
            f"{directory}: {error.strerror}", hint="what was copied stays; go on with the same", code="file"
        ) from error
    except (TamperedError, NoteError) as error:
        raise Stop(str(error), exit_codes.DENIED, hint="keep both: they are evidence", code=error.code) from None
    except IncompleteError as error:
        raise Stop(str(error), exit_codes.INCOMPLETE, code=error.code) from None
    head = copied.head
    value = {
        "folder": str(directory),
        "origin": head.origin,
        "size": head.size,
        "files": copied.files,
        "gone": copied.gone,
    }
    shown = [("log", head.origin), ("records", head.size), ("files", copied.files)]
    shown += [("bundles gone", copied.gone)] if copied.gone else []
    console.data("audit-copy", value, lambda: pairs(shown))
    console.hint(f"check it with `arx audit verify {directory} --key VKEY`")


def _from_mint(place: Place) -> Callable[[str], bytes | None]:
    mint = place.mint()

    def fetch(path: str) -> bytes | None:
        try:
            return mint.fetch(f"/v1/audit/log/{path}")
        except Stop as error:
            if error.code == "not_found":
                return None
            raise

    return fetch
