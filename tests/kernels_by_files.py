"""Notebook kernels that are spoken to through files, not ports: a pytest plugin for each process that starts kernels.

jupyter_client looks for free ports and tells the kernel, which takes them a second later. Among many processes that
open ports, another may have one by then, and the kernel dies with "Address already in use".
"""

import os
import tempfile
import uuid
from typing import Any

from jupyter_client.connect import ConnectionFileMixin

LONGEST_ADDRESS = 103
"""Characters of the path of a socket that every Unix takes."""


def _beginning() -> str:
    """Return what the paths of a kernel's sockets begin with; left to itself, jupyter_client gives all kernels one."""
    return os.path.join(tempfile.gettempdir(), f"kernel-{uuid.uuid4()}")


POSSIBLE = os.name == "posix" and len(f"{_beginning()}-ipc-1") <= LONGEST_ADDRESS
"""Whether there can be such files here."""


def _speak_through_files() -> None:
    write = ConnectionFileMixin.write_connection_file

    def write_to_its_own(manager: ConnectionFileMixin, **how: Any) -> None:
        if manager.transport == "ipc" and not manager.connection_file:
            manager.connection_file = f"{_beginning()}.json"  # its sockets are named after it
        write(manager, **how)

    ConnectionFileMixin.transport.default_value = "ipc"
    ConnectionFileMixin.write_connection_file = write_to_its_own


if POSSIBLE:
    _speak_through_files()
