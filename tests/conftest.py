"""For all tests: no GPU, no connection but to this machine; and what the fuzz tests ask of pytest."""

import os
import socket
import sys
from collections.abc import Generator, Iterator
from typing import Any

import psutil
import pytest
from browser import Browser
from command_line import dgrl, project

__all__ = ["dgrl", "project"]  # fixtures

# All but the tests of `make gpu` compute on the CPU: they compare bytes, or start more ranks than GPUs.
if "DGRL_GPU" not in os.environ:
    os.environ["CUDA_VISIBLE_DEVICES"] = ""

OWN = {"localhost"} | {each.address for found in psutil.net_if_addrs().values() for each in found}
_connections: list[str] = []  # to other machines


def _watch(event: str, arguments: tuple[Any, ...]) -> None:
    if event != "socket.connect":
        return
    connection, address = arguments
    if connection.family not in (socket.AF_INET, socket.AF_INET6):
        return
    if connection.type == socket.SOCK_DGRAM:  # sends nothing: Ray asks so for this machine's address
        return
    if address[0] not in OWN and not address[0].startswith("127."):
        _connections.append(str(address))
        raise ConnectionRefusedError(f"a test connects to {address}, which is not this machine")


sys.addaudithook(_watch)


@pytest.fixture(autouse=True)
def connections() -> Iterator[list[str]]:
    """The connections to other machines that the test has tried: each is refused, and the test fails."""
    _connections.clear()
    yield _connections
    assert not _connections


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: else one process is left with such a file when the other has no more."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Let fixtures see how a test has ended."""
    report = yield
    setattr(item, f"rep_{report.when}", report)
    return report


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened
