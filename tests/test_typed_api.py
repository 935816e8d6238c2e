"""The typed examples also run. `make types` has both type checkers look at them."""

from __future__ import annotations

import asyncio

from tests import typed_api


def test_what_the_type_checkers_were_shown_works() -> None:
    typed_api.synchronous()
    asyncio.run(typed_api.asynchronous())

    async def main() -> float:
        return await typed_api.takes_any_layer(typed_api.bulkhead)(1)

    assert asyncio.run(main()) == 1.0
