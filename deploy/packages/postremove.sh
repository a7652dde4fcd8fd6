#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# After the files have gone.  $1 of dpkg: remove, purge or upgrade; of rpm: 0 for a removal, 1 for an upgrade.
set -e
case "$1" in
1)
    # rpm runs preremove of the former version after postinstall of the new one.
    /usr/lib/arx/bin/python3 -m compileall -q /usr/lib/arx/lib
    ;;
purge)
    # Settings and credentials; the realm in /var/lib/arx stays.
    rm -rf /etc/arx
    ;;
esac
case "$1" in
remove | purge | 0)
    # The data are the administrator's to delete, and so are secrets, which must not be left unnoticed.
    for left in /etc/arx/credentials /var/lib/arx/realm /var/lib/arx/services; do
        if [ -n "$(ls -A "$left" 2>/dev/null)" ]; then
            echo "arx: $left is left, and has secrets" >&2
        fi
    done
    ;;
esac
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
fi
