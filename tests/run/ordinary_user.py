# SPDX-License-Identifier: Apache-2.0
"""Make a realm in a folder, run it, and print what a script shows under `arx run`: ``ordinary_user.py FOLDER``."""

import os
import sys
from pathlib import Path

from tests.gateway.git_services import refs_of
from tests.run.page_realm import PageRealm

SCRIPT = (
    "id -u; git clone -q https://github.com/acme/app ~/again && cat ~/again/file; echo;"
    "git push -q origin HEAD:refs/heads/agent/login; git push origin HEAD:main"
)

if __name__ == "__main__":
    os.umask(0o077)
    realm = PageRealm(Path(sys.argv[1]))
    with realm.running():
        print(realm.output("sh", "-c", SCRIPT), *refs_of(realm.bare))
