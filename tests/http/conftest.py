"""Every scenario runs with both libraries and in both colours."""

from __future__ import annotations

import pytest

from tests.conftest import Colour
from tests.http.scripted import LIBRARIES, Kit


@pytest.fixture(params=LIBRARIES)
def kit(request: pytest.FixtureRequest, colour: Colour) -> Kit:
    return Kit(request.param, colour)
