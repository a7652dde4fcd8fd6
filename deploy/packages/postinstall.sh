#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# After the files are there.  $1 of dpkg: configure, or abort-* after an upgrade or a removal that failed; of rpm: 1 for an
# installation, 2 for an upgrade.
set -e
case "$1" in
abort-*)
    # preremove has removed it.
    /usr/lib/arx/bin/python3 -m compileall -q /usr/lib/arx/lib
    ;;
configure | 1 | 2)
    systemd-sysusers arx.conf
    # For `arx init` before the first start of a unit; a removal keeps them.
    [ -d /var/lib/arx ] || install -d -o arx -g arx -m 0700 /var/lib/arx
    # Made by the user itself: root would follow a link that a process of the user has put there.
    runuser -u arx -- mkdir -p -m 0700 /var/lib/arx/realm /var/lib/arx/services
    # The units cannot write it, and would compile each module at each start.
    /usr/lib/arx/bin/python3 -m compileall -q /usr/lib/arx/lib
    if [ -d /run/systemd/system ]; then
        systemctl daemon-reload
        # Of those that run; a new installation starts none.  One that does not start, such as without its store, must
        # not leave the package half installed: each later call of apt would fail.
        systemctl try-restart arx-mint.service arx-relay.service arx-gateway.service 'arx-ship@*.service' ||
            echo "arx: a unit did not start again: journalctl -u 'arx-*'" >&2
    fi
    ;;
esac
