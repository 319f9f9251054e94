"""Options of the test suite."""

from __future__ import annotations

import os

# the suite runs on several processes; a second BLAS thread in each would only fight for the same cores
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import pytest
from hypothesis import settings

# a busy machine must not fail a test: no example has a time limit
settings.register_profile("lpir", deadline=None)
settings.load_profile("lpir")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", action="store_true", help="write the golden files anew instead of comparing")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> bool:
    """Whether golden files are written anew."""
    return bool(request.config.getoption("--golden"))
