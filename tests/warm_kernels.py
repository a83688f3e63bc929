"""Notebook kernels that are forked from a process that has imported what all notebooks import, which takes seconds."""

import os
import signal
import sys
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from multiprocessing.process import BaseProcess


class Process:
    """A forked process as jupyter_client wants it, with the methods of subprocess.Popen."""

    stdin = stdout = stderr = None

    def __init__(self, forked: BaseProcess) -> None:
        self.forked, self.pid = forked, forked.pid

    def poll(self) -> int | None:
        return self.forked.exitcode

    def wait(self) -> int | None:
        self.forked.join()
        return self.forked.exitcode

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def kernel(begun: Connection, arguments: list[str], environment: dict[str, str], folder: str) -> None:
    """Be a kernel: in a session, an environment and a folder of its own."""
    os.setsid()
    begun.send(None)
    import matplotlib
    from ipykernel import kernelapp

    matplotlib.rcParams["backend"] = "module://matplotlib_inline.backend_inline"  # was read before it was a kernel
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment, JPY_PARENT_PID=str(os.getppid()))  # it ends where that process does
    sys.argv = ["ipykernel_launcher", *arguments]
    kernelapp.launch_new_instance()


def launch_kernel(
    processes: BaseContext, command: list[str], *, env: dict[str, str], cwd: str = ".", **_: object
) -> Process:
    """Do what jupyter_client's function of this name does, with a forked process."""
    arguments = command[command.index("-m") + 2 :]
    ours, its = processes.Pipe(duplex=False)
    forked = processes.Process(target=kernel, args=(its, arguments, env, os.path.abspath(cwd)))
    forked.start()
    its.close()
    ours.recv()  # its group of processes, which signals are sent to, is its own from here on
    return Process(forked)
