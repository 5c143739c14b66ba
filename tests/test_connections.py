"""Tests reach this machine only, which conftest.py sees to."""

import socket

import pytest


def test_a_connection_to_another_machine_is_refused_and_seen(connections: list[str]) -> None:
    with pytest.raises(ConnectionRefusedError, match="not this machine"):
        socket.create_connection(("192.0.2.1", 80), timeout=1)
    assert connections == ["('192.0.2.1', 80)"]
    connections.clear()


def test_a_connection_to_this_machine_is_let_through() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname()).close()
