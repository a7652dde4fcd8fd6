# SPDX-License-Identifier: Apache-2.0
"""The checks of the mint's database: it takes changes, a failover loses none, it is backed up.  docs/operations.md."""

from collections.abc import Iterator
from typing import Final

from arx_caps.cli.commands.doctor.check import Check, ask_database
from arx_caps.database.disk_room import room_fault
from arx_caps.http.certificates import database_hosts
from arx_caps.settings.durations import show_span
from arx_caps.settings.realm import Realm
from arx_verifier.errors import ArxError

NAME: Final = "database"
BACKUPS: Final = "backups"
LATE_S: Final = 26 * 3600  # of a backup that is made every day
MAKE: Final = "run `arx backup --out FILE` every day, and `arx backup drill FILE` every month"
STATE: Final = (
    "SELECT pg_is_in_recovery(), current_setting('default_transaction_read_only') = 'on',"
    " current_setting('synchronous_standby_names'), current_setting('synchronous_commit')"
)
UNSAFE: Final = ("off", "local")  # of synchronous_commit: no standby is waited for
PRIMARY: Final = (
    "name the primary in `database`, or every host with `target_session_attrs=read-write`; on a primary, set "
    "default_transaction_read_only to off"
)
STANDBY: Final = "set synchronous_standby_names, and synchronous_commit to on, on each host (docs/operations.md)"


def check_database(realm: Realm) -> Iterator[Check]:
    """Check the realm's database, as its mints use it.

    Args:
        realm: The realm.
    """
    from arx_caps.mint.db.mint_database import MintDatabase

    if realm.database is None or realm.database.startswith("sqlite"):
        fault = room_fault(realm.folder)
        if fault is not None:
            found = f"{realm.folder}, which has the mint's database, {fault}"
            yield Check(NAME, False, found, "give it room and write access before the mint refuses changes")
        return
    try:
        with MintDatabase(realm.database_url) as db, db.read() as c:
            standby, read_only, names, commit = c.exec_driver_sql(STATE).one()
    except ArxError as error:
        yield Check(NAME, False, str(error), "start it, or correct `database` in realm.toml")
        return
    if standby or read_only:
        what = "its server is a standby" if standby else "default_transaction_read_only is on"
        yield Check(NAME, False, f"it is read-only: {what}, so the mints refuse every change", PRIMARY)
        return
    several = len(database_hosts(realm.database)) > 1
    if several and (not names.strip() or commit in UNSAFE):
        what = "synchronous_standby_names is empty" if not names.strip() else f"synchronous_commit is {commit}"
        found = f"`database` names several hosts, and {what}: a failover loses acknowledged sessions, and halts the log"
        yield Check(NAME, False, found, STANDBY)
        return
    yield Check(NAME, True, "takes changes" + (", with a synchronous standby" if several else ""))


def check_backups(realm: Realm) -> Iterator[Check]:
    """Check how old the last backup and the last drill are; a realm without any is in order, and could be safer.

    Args:
        realm: The realm.
    """
    ages = ask_database(realm, lambda db: db.backups.ages())
    if ages is None:
        return
    if ages.backup is None:
        yield Check(BACKUPS, True, "none was made", MAKE)
        return
    tried = "none was tried" if ages.drill is None else f"one was tried {_ago(ages.drill)}"
    found = f"the last was made {_ago(ages.backup)}; {tried}"
    late = ages.backup > LATE_S
    yield Check(BACKUPS, not late, found, MAKE if late or ages.drill is None else "")


def _ago(age_s: float) -> str:
    return f"{show_span(round(age_s * 1000))} ago"
