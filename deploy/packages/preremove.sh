#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Before files go.  $1 of dpkg: remove, upgrade or deconfigure; of rpm: 0 for a removal, 1 for an upgrade.
set -e
case "$1" in
remove | 0)
    units="arx-mint.service arx-relay.service arx-gateway.service"
    if [ -d /run/systemd/system ]; then
        systemctl stop $units 'arx-ship@*.service'
    fi
    if command -v systemctl >/dev/null; then
        systemctl --quiet disable $units
    fi
    rm -f /etc/systemd/system/multi-user.target.wants/arx-ship@*.service
    ;;
esac
# Neither dpkg nor rpm knows the byte code, and each would leave its folders behind.
find /usr/lib/arx -type d -name __pycache__ -prune -exec rm -r {} +
