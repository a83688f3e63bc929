"""A classroom on loopback for tests: a SuperLink and SuperNodes as processes of their own, all ended at the end."""

import json
import os
import re
import shlex
import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
from ports import free_port

ROOT = Path(__file__).parent.parent
BIN = Path(sys.executable).parent
"""Where the commands of this Python's packages are."""
NOTEBOOK = ROOT / "notebooks" / "10-real-federation.ipynb"
PAGE = ROOT / "docs" / "class-as-federation.md"


def blocks() -> list[str]:
    """Return the blocks of commands in the notebook and on the page that goes with it."""
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    text = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown")
    text += PAGE.read_text(encoding="utf-8")
    return re.findall(r"```bash\n(.*?)```", text, re.DOTALL)


def block(*words: str) -> str:
    """Return their one block of commands that holds these words."""
    (found,) = (block for block in blocks() if all(word in block for word in words))
    return found


def settings() -> dict[str, Any]:
    """Return what the notebook's experiment changes of Experiment()'s."""
    return json.loads(re.search(r"--experiment '(.*)'", block("gmfl_lite.flower_app classroom"))[1])


JOINS = block("flower-supernode --insecure", '"agent=$AGENT"')


def environment(folder: Path) -> dict[str, str]:
    """What keeps Flower in `folder` and on this machine: no telemetry, no look for updates, quick polling."""
    return {
        **os.environ,
        "FLWR_HOME": str(folder / "flwr-home"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.2",
        "RAY_USAGE_STATS_ENABLED": "0",
        # Ray's node gives its agents and workers 30 s to import what they need, and ends; nobody is told.
        "RAY_agent_register_timeout_ms": "600000",
        "RAY_worker_register_timeout_seconds": "600",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
        "PYTHONWARNINGS": "ignore",
        "OMP_NUM_THREADS": "1",
        "NO_PROXY": "127.0.0.1,localhost",
    }


PATIENT = """
import sys, time
from ray._private import node, parameter, services
from ray._raylet import persist_port
from flwr.simulation.app import flwr_simulation

Parameters, start, look_for = parameter.RayParams, node.Node.start_raylet, services.get_node

def with_ports(**how):
    return Parameters(**{**how, **PORTS})

def start_with_ports(self, *where, **how):
    for name, port in PORTS.items():
        persist_port(self._session_dir, self._node_id, name, port)
    start(self, *where, **how)

def find(*address):
    end = time.monotonic() + 300
    while True:
        try:
            return look_for(*address)
        except RuntimeError:
            if time.monotonic() > end:
                raise
            time.sleep(0.5)

parameter.RayParams, node.Node.start_raylet, services.get_node = with_ports, start_with_ports, find
sys.exit(flwr_simulation())
"""
"""The command `flwr-simulation`, but that Ray's node need not wait for its agents, nor others only 30 s for the node.

The node looks in files which ports its agents have chosen, for 15 s, which no setting changes, and ends: here it finds
the ports that they are told to take.
"""
RAYS_PORTS = "metrics_agent_port", "metrics_export_port", "dashboard_agent_listen_port", "runtime_env_agent_port"

DIES_WITH_US = "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 9); os.execvp(sys.argv[1], sys.argv[1:])"
"""Linux ends a process that has asked for it when its parent ends, however that ends."""


class Process:
    """A process group with its output in a file."""

    def __init__(self, folder: Path, name: str, command: list[str]) -> None:
        self.path = folder / f"{name}.log"
        with open(self.path, "w", encoding="utf-8") as output:
            if sys.platform == "linux":
                command = [sys.executable, "-S", "-c", DIES_WITH_US, *command]
            self.popen = subprocess.Popen(
                command, cwd=folder, env=environment(folder), stdout=output, stderr=subprocess.STDOUT,
                start_new_session=True,  # so that no signal meant for it reaches the tests
            )  # fmt: skip

    @property
    def output(self) -> str:
        return re.sub(r"\x1b\[[0-9;]*m", "", self.path.read_text(errors="replace"))

    def kill(self) -> None:
        """End the process and all that it has started, at once."""
        try:
            family = [psutil.Process(self.popen.pid), *psutil.Process(self.popen.pid).children(recursive=True)]
        except psutil.NoSuchProcess:
            family = []
        for process in family:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, timeout=60)
        self.popen.wait(60)

    def wait_for(self, pattern: str, seconds: float) -> re.Match:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if match := re.search(pattern, self.output):
                return match
            if self.popen.poll() not in (None, 0):
                break
            time.sleep(0.2)
        others = "".join(
            f"\n\n{log.stem}:\n{log.read_text(errors='replace')[-2000:]}"
            for log in sorted(self.path.parent.glob("*.log"))
            if log != self.path
        )
        raise AssertionError(f"{self.path.stem} never said {pattern!r}:\n{self.output[-3000:]}{others}")


class Classroom(ExitStack):
    """The terminals of a class on this computer, in which the commands of notebook 10 are typed; leaving ends them."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder, self.port, self.first_on_path = folder, free_port(), ""

    def terminal(self, name: str, commands: str, *, agent: int | None = None, port: int | None = None) -> Process:
        """Type commands in a new terminal, after those for everybody and those for student `agent`."""
        typed = block("FLWR_HOME=", "TEACHER=").replace("PORT=9092", f"PORT={port or self.port}")
        if agent is not None:
            exports = block("export AGENT=0 NODE_PORT=9094")
            typed += exports.replace("AGENT=0", f"AGENT={agent}").replace("9094", str(free_port()))
        process = Process(self.folder, name, ["bash", "-ec", typed + commands])
        self.callback(process.kill)
        return process

    def warm_up(self) -> None:
        """Let the students who join from now on start their agents from one process, which takes no time."""
        self.first_on_path = self._warm("warm")

    def _warm(self, name: str, paths: str = "") -> str:
        (self.folder / name).mkdir()
        program = shlex.join([sys.executable, str(ROOT / "tests" / "warm_agents.py"), name])
        process = Process(self.folder, name, ["bash", "-c", f"{paths}exec {program}"])
        self.callback(process.kill)
        process.wait_for("ready", 300)
        return f'export PATH="{self.folder / name}:$PATH"\n'

    def be_patient(self) -> None:
        """Let the simulation that starts next have Ray's node however long its parts take to import what they need."""
        (self.folder / "patient").mkdir()
        command = self.folder / "patient" / "flwr-simulation"
        ports = f"PORTS = { {name: free_port() for name in RAYS_PORTS} }"
        command.write_text(f"#!{sys.executable}\n{ports}\n{PATIENT}", encoding="utf-8")
        command.chmod(0o755)
        self.first_on_path = f'export PATH="{command.parent}:$PATH"\n'

    def superlink(self, commands: str) -> Process:
        link = self.terminal("superlink", self.first_on_path + commands)
        link.wait_for("running on https?://", 300)
        return link

    def student(self, agent: int, *, port: int | None = None) -> Process:
        return self.terminal(f"student-{agent}", self.first_on_path + JOINS, agent=agent, port=port)

    def changed_student(self, agent: int, *folders: Path) -> Process:
        """Have a student join whose library is the one in these folders; a process of its own forks its agents."""
        paths = f'export PYTHONPATH="{os.pathsep.join(map(str, folders))}:$PYTHONPATH"\n'
        paths += self._warm(f"warm-{agent}", paths)
        return self.terminal(f"student-{agent}", paths + JOINS, agent=agent)


class Wire:
    """A stretch of wire between a node and the SuperLink that keeps a copy of what the node sends."""

    def __init__(self, port: int) -> None:
        self.target, self.connections = port, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    @property
    def sent(self) -> bytes:
        """All that was sent, one connection after the other."""
        return b"".join(bytes(sent) for sent in self.connections)

    def requests(self) -> list[bytes]:
        """Return the web requests that were sent, each with its headers."""
        rest, found = self.sent, []
        while rest:
            headers = rest.index(b"\r\n\r\n") + 4
            length = headers + int(re.search(rb"(?i)\r\ncontent-length: (\d+)", rest[:headers])[1])
            found.append(rest[:length])
            rest = rest[length:]
        return found

    def accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except OSError:  # closed
                return
            far = socket.create_connection(("127.0.0.1", self.target))
            self.connections.append(bytearray())
            for source, sink, kept in ((near, far, self.connections[-1]), (far, near, bytearray())):
                threading.Thread(target=self.forward, args=(source, sink, kept), daemon=True).start()

    def forward(self, source: socket.socket, sink: socket.socket, kept: bytearray) -> None:
        with suppress(OSError), source:
            while data := source.recv(65536):
                kept += data
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
