"""Ports of a server's processes."""

import socket

import pytest

from leverlab.topology.ports import free_ports, steady_ports

pytestmark = pytest.mark.serial


def test_free_ports_are_different() -> None:
    assert len(set(free_ports(8))) == 8


def test_steady_ports_are_the_same_again_until_somebody_has_one() -> None:
    """vLLM compiles anew where its side channel's port differs from the last start's."""
    first = steady_ports(2)
    assert steady_ports(2) == first
    with socket.socket() as other:
        other.bind(("127.0.0.1", first[0]))
        other.listen()
        again = steady_ports(2)
    assert first[0] not in again and again[0] == first[1]
