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
if [ -d /run/systemd/system ]; then
    systemctl daemon-reload
fi
