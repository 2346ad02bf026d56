"""What the proxy is told on its command line."""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, cast, get_args

from leverlab.config.topology import Policy

Address = tuple[str, int]
OwnPolicy = Literal["round-robin", "random"]

OWN_POLICIES: Final[tuple[Policy, ...]] = get_args(OwnPolicy)


@dataclass(frozen=True, slots=True)
class Settings:
    """Where it listens, the servers that answer, and those that prefill before them (none: it is a router)."""

    host: str
    port: int
    servers: Sequence[Address]
    prefills: Sequence[Address] = ()
    policy: OwnPolicy = "round-robin"
    seed: int = 0
    """Of the draws of `random`."""


def parse_settings(arguments: list[str]) -> Settings:
    """The settings that `arguments` ask for. Exits with status 2 and a message for what is not known or not possible."""
    parser = argparse.ArgumentParser(
        prog="python -m leverlab.proxy",
        description=__doc__,
        epilog="example: python -m leverlab.proxy --port 8000 --prefill 127.0.0.1:8100 --server 127.0.0.1:8200",
        allow_abbrev=False,
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on")
    parser.add_argument("--port", type=int, default=8000, help="port to listen on")
    parser.add_argument(
        "--server", type=_address, action="append", required=True, help="a server that answers: HOST:PORT"
    )
    parser.add_argument("--prefill", type=_address, action="append", default=[], help="a prefill server: HOST:PORT")
    parser.add_argument(
        "--policy", choices=OWN_POLICIES, default="round-robin", help="which server gets the next request"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws of --policy random")
    told = parser.parse_args(arguments)
    return Settings(told.host, told.port, told.server, told.prefill, cast("OwnPolicy", told.policy), told.seed)


def _address(text: str) -> Address:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit():
        raise argparse.ArgumentTypeError(f"{text!r}: write HOST:PORT")
    return host, int(port)
