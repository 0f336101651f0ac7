"""Work that outlasts its request: waited for briefly, told of what it came to, ended with the process."""

from __future__ import annotations

import asyncio

import pytest

from services.api.background import Background


async def _answer(value: int) -> int:
    return value


async def _refuse() -> None:
    raise LookupError("there is nothing to do")


async def test_what_is_quick_is_answered_in_the_request() -> None:
    background = Background()
    assert await background.begin(_answer(3)) == 3
    with pytest.raises(LookupError):
        await background.begin(_refuse())


async def test_what_is_slow_goes_on_without_the_request() -> None:
    background, may_end, ended = Background(), asyncio.Event(), asyncio.Event()

    async def slow() -> int:
        await may_end.wait()
        ended.set()
        return 1

    assert await background.begin(slow(), seconds=0) is None
    assert not ended.is_set()
    may_end.set()
    await asyncio.wait_for(ended.wait(), 5)


async def test_what_goes_on_ends_with_the_process() -> None:
    background, cancelled = Background(), asyncio.Event()

    async def for_ever() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            cancelled.set()

    await background.begin(for_ever(), seconds=0.01)
    await background.close()
    assert cancelled.is_set()
