# SPDX-License-Identifier: Apache-2.0
"""Run a command in a box before a front that answers one text: ``python plain_box.py FOLDER PROTECTED COMMAND...``.

It needs the standard library alone, so that each user of a machine can run it.
"""

import asyncio
import os
import sys
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP), str(TOP / "verifier")]

from arx_caps.run.box import PROXY, box_command, open_box  # noqa: E402 - after the path of both packages
from arx_caps.run.environment import environment  # noqa: E402

ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\nconnection: close\r\n\r\nthe front"


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer a request without a body."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(ANSWER)
    await writer.drain()
    writer.close()


async def main(folder: Path, protected: Path, command: tuple[str, ...]) -> int:
    """Return the exit status of a command in a box."""
    run = folder / "run"
    run.mkdir(mode=0o700)
    (run / "ca.pem").touch()
    (folder / "work").mkdir(exist_ok=True)
    path = run / "front.sock"
    found = environment(
        proxy=PROXY, ca_file=run / "ca.pem", home=run / "home", folder=run, hosts=["api.example"], socket=path
    )
    box = open_box(
        command,
        environment=found,
        folder=folder / "work",
        home=run / "home",
        reads=(run,),
        protected=(protected,),
    )
    async with await asyncio.start_unix_server(answer, path):
        process = await asyncio.create_subprocess_exec(
            *box_command(box, path), env=box.environment, start_new_session=True
        )
        return await process.wait()


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(asyncio.run(main(Path(sys.argv[1]), Path(sys.argv[2]), tuple(sys.argv[3:]))))
