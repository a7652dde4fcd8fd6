# SPDX-License-Identifier: Apache-2.0
"""`arx init` could not make a realm in a mounted volume, and took an empty folder that another user had made.

Found in ARx before its first release.  It filled a folder beside the named one and renamed it, but the user of a volume
or of a ``StateDirectory`` owns that folder and not the one above: "cannot be created: Permission denied".
"""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from arx_caps.cli import exit_codes
from arx_caps.mint.keys.root_keys import RootKeys
from arx_caps.mint.server.init_realm import init_realm
from arx_caps.settings.new_folder import HALF_MADE
from arx_caps.settings.realm import Realm
from arx_verifier.errors import SettingsError

ISSUER = "http://127.0.0.1:8700"
# Root without capabilities: the modes of folders bind it too.
BOUND = ["setpriv", "--bounding-set=-all"] if os.geteuid() == 0 else []


def init(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [*BOUND, sys.executable, "-m", "arx_caps.cli", "init", str(folder), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
@pytest.mark.servers
def test_a_volume_that_the_user_owns_becomes_a_realm(tmp_path: Path) -> None:
    """Nothing can be written beside the volume; the realm in it opens, is private, and has no half-made part."""
    volume = tmp_path / "above" / "volume"
    volume.mkdir(parents=True)
    volume.chmod(0o755)
    volume.parent.chmod(0o555)
    done = init(volume)
    assert done.returncode == 0, done.stderr
    realm = Realm.open(volume)
    RootKeys.load(realm.root_path, realm=realm.name, passphrase=None, key_path=realm.root_key_path)
    assert volume.stat().st_mode & 0o777 == 0o700
    assert not (volume / HALF_MADE).exists()
    again = init(volume)
    assert (again.returncode, "not overwritten" in again.stderr) == (exit_codes.USAGE, True)


@pytest.mark.slow
@pytest.mark.servers
def test_a_failed_init_leaves_the_volume_empty(tmp_path: Path) -> None:
    """After a refused passphrase the same volume becomes a realm."""
    (tmp_path / "empty").touch()
    volume = tmp_path / "volume"
    volume.mkdir()
    assert init(volume, "--passphrase-file", str(tmp_path / "empty")).returncode != 0
    assert list(volume.iterdir()) == []
    assert init(volume).returncode == 0


def test_a_folder_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its owner could replace each file of the realm, so nothing is made in it."""
    folder = tmp_path / "folder"
    folder.mkdir()
    own = os.geteuid()
    monkeypatch.setattr(os, "geteuid", lambda: own + 1)
    with pytest.raises(SettingsError, match="another user"):
        init_realm(folder, name="acme", issuer=ISSUER)
    assert list(folder.iterdir()) == []


def test_two_that_begin_together_make_one_realm(tmp_path: Path) -> None:
    """The settings and the sealed root key in the folder are of the same realm."""

    def make(name: str) -> str | None:
        try:
            return init_realm(tmp_path / "volume", name=name, issuer=ISSUER).name
        except SettingsError:
            return None

    (tmp_path / "volume").mkdir()
    with ThreadPoolExecutor(4) as pool:
        made = [name for name in pool.map(make, ("one", "two", "three", "four")) if name]
    realm = Realm.open(tmp_path / "volume")
    assert made == [realm.name]
    RootKeys.load(realm.root_path, realm=realm.name, passphrase=None, key_path=realm.root_key_path)
