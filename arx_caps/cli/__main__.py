# SPDX-License-Identifier: Apache-2.0
"""``python -m arx_caps.cli`` is ``arx``."""

from arx_caps.cli.app import main

if __name__ == "__main__":
    main()
