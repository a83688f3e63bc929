"""Notebook kernels that are spoken to through files, not ports: a pytest plugin for each process that starts kernels.

jupyter_client looks for free ports and tells the kernel, which takes them a second later. Among many processes that
open ports, another may have one by then, and the kernel dies with "Address already in use".
"""

import os

from jupyter_client.connect import ConnectionFileMixin
from jupyter_core.paths import jupyter_runtime_dir

LONGEST_ADDRESS = 103
"""Characters of the path of a socket that every Unix takes."""
NAME = len("/kernel-00000000-0000-0000-0000-000000000000-ipc-1")


POSSIBLE = os.name == "posix" and len(jupyter_runtime_dir()) + NAME <= LONGEST_ADDRESS
"""Whether there can be such files here."""

if POSSIBLE:
    ConnectionFileMixin.transport.default_value = "ipc"
