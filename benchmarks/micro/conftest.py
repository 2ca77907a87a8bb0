"""The option of the micro-benchmarks."""

from __future__ import annotations

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--engine-threads", type=int, default=1, help="threads of the engine; default: 1")


@pytest.fixture
def threads(request: pytest.FixtureRequest) -> int:
    return int(request.config.getoption("--engine-threads"))
