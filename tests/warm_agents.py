"""Agents that are forked from a process that has imported what they import, which takes seconds.

A node of Flower starts `flwr-clientapp` for every message: here, a command of this name that asks the process for one.
"""

import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path

from flwr.supernode.cli import flwr_clientapp

import gmfl_lite.flower.app  # noqa: F401
from gmfl_lite.engine.threads_and_memory import load_derivatives

COMMAND = """#!{python} -IS
import json, os, socket, sys
with socket.socket(socket.AF_UNIX) as warm:
    warm.connect({address!r})
    socket.send_fds(warm, [json.dumps([sys.argv, dict(os.environ), os.getcwd()]).encode()], [1, 2])
    sys.exit(int(warm.recv(9) or b"1"))
"""


def agent(asked: socket.socket) -> None:
    """Be one, with what the command was given; end when the command is ended."""
    message, outputs, *_ = socket.recv_fds(asked, 2**20, 2)
    for number, output in enumerate(outputs, start=1):
        os.dup2(output, number)
    sys.argv, environment, folder = json.loads(message)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    threading.Thread(target=lambda: asked.recv(1) or os._exit(1), daemon=True).start()
    try:
        flwr_clientapp()
        code = 0
    except SystemExit as end:
        code = end.code or 0
    sys.stdout.flush()
    asked.sendall(str(code).encode())


def serve(folder: Path) -> None:
    """Write the command into a folder, say so, and fork an agent whenever it is called."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    load_derivatives()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "socket"))
        listener.listen()
        command = folder / "flwr-clientapp"
        command.write_text(COMMAND.format(python=sys.executable, address=str(folder / "socket")), encoding="utf-8")
        command.chmod(0o755)
        print("ready", flush=True)
        while True:
            asked, _ = listener.accept()
            if os.fork() == 0:
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                try:
                    agent(asked)
                finally:
                    os._exit(0)
            asked.close()


if __name__ == "__main__":
    serve(Path(sys.argv[1]).absolute())
