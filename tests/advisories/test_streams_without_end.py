# SPDX-License-Identifier: Apache-2.0
"""An operator could open any number of streams of the console, each of which asks the database again and again."""

import asyncio
import secrets

import pytest

from arx_caps.console.live import MOST, Live, StreamEvent
from arx_verifier.errors import GrantError


def test_one_operator_has_so_many_and_another_one_some() -> None:
    """A stream that has ended counts no more."""

    async def run() -> None:
        live = Live()
        broadcast = live.broadcast("x", list, 3600)

        async def begin(viewer: str) -> asyncio.Task[None]:
            begun = asyncio.Event()

            def first() -> list[StreamEvent]:  # called once the stream counts
                begun.set()
                return []

            answer = live.answer(
                viewer,
                broadcast,
                lambda value, _: StreamEvent(value),
                lambda: True,
                first,
                browser=secrets.token_hex(4),
            )

            async def read() -> None:
                async for _ in answer.body_iterator:
                    pass

            task = asyncio.create_task(read())
            await begun.wait()
            return task

        async with asyncio.timeout(60):
            tasks = [await begin("eve") for _ in range(MOST)]
            with pytest.raises(GrantError) as refused:
                await begin("eve")
            assert refused.value.code == "rate_limited"
            await begin("ada")
            tasks[0].cancel()
            await asyncio.gather(tasks[0], return_exceptions=True)
            await begin("eve")
            live.stop()

    asyncio.run(run())
