"""Free ports for the servers that tests start."""

import itertools
import os
import socket

FIRST, OF_EACH = 20_000, 1_000
"""Below the ports that systems hand out by themselves (Linux from 32768 on, others from 49152 on): one that is found
free is not given to somebody else before the server, seconds later, takes it. Every process that runs tests has its
own."""

_tried = itertools.count(os.getpid() % OF_EACH)


def free_port() -> int:
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for number in itertools.islice(_tried, OF_EACH):
        port = FIRST + OF_EACH * (worker % 12) + number % OF_EACH
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port from {FIRST} on")
