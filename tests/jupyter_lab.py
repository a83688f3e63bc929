"""JupyterLab for tests: on a folder of theirs, without anybody's own settings, driven in a browser."""

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ports import free_port

SERVER = "import kernels_by_files; from jupyterlab.labapp import main; main()"
"""JupyterLab, whose kernels take no ports."""


@contextmanager
def started(folder: Path) -> Iterator[Callable[[str], str]]:
    """Start JupyterLab on a folder, give what makes an address of a notebook there, and end it."""
    port, token, settings = free_port(), secrets.token_hex(16), folder.with_name(f"{folder.name}-settings")
    own = {name: str(settings / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")}
    own["JUPYTER_RUNTIME_DIR"] = tempfile.mkdtemp()  # a short path: the kernels' sockets are in it
    own["PYTHONPATH"] = os.pathsep.join(filter(None, [str(Path(__file__).parent), os.environ.get("PYTHONPATH")]))
    command = [sys.executable, "-c", SERVER, "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    command += ["--ServerApp.port_retries=0"]
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}"]
    command += ["--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    command += ["--LabApp.expose_app_in_browser=True"]
    configured = Path(own["JUPYTER_CONFIG_DIR"]) / "labconfig"
    configured.mkdir(parents=True)
    page = {"disabledExtensions": {"@jupyter/nbgrader": True}}  # its buttons are no part of what is tested
    (configured / "page_config.json").write_text(json.dumps(page), encoding="utf-8")
    with open(settings / "log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(command, env={**os.environ, **own}, stdout=log, stderr=log, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        until = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"{address}/api", timeout=60).close()
                break
            except OSError:
                assert time.monotonic() < until, (settings / "log").read_text(encoding="utf-8")
                time.sleep(0.1)
        yield lambda notebook: f"{address}/lab/tree/{notebook}?token={token}&reset"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(60)
        shutil.rmtree(own["JUPYTER_RUNTIME_DIR"], ignore_errors=True)


def until_open(page) -> None:
    """Wait until a notebook and its kernel are there."""
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.get_by_text("(ipykernel) | Idle").wait_for()  # before that, JupyterLab asks which kernel to use


def opened(page, address: str) -> None:
    """Open a notebook, and wait until its kernel is there."""
    page.goto(address)
    until_open(page)
    news = page.get_by_role("button", name="No", exact=True)
    if news.is_visible():
        news.click()


def run_all_cells(page) -> None:
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


def command(page, name: str, **arguments: object) -> None:
    """Run one of JupyterLab's commands, such as docmanager:save, and wait until it is done."""
    page.evaluate("([name, how]) => jupyterapp.commands.execute(name, how).then(() => null)", [name, arguments])
