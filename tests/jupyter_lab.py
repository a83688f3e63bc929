"""A JupyterLab of this environment for tests in a browser, without anybody's own settings."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nbformat


@contextmanager
def lab(folder: Path, notebook: nbformat.NotebookNode) -> Iterator[str]:
    """Start JupyterLab on one notebook, and give the address where it is open."""
    (folder / "work").mkdir()
    nbformat.write(notebook, folder / "work" / "playground.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(16)
    own = {name: str(folder / name) for name in ("JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "IPYTHONDIR")}
    (Path(own["JUPYTER_CONFIG_DIR"]) / "labconfig").mkdir(parents=True)
    page = {"disabledExtensions": {"@jupyter/nbgrader": True}}  # its buttons are no part of what is tested
    (Path(own["JUPYTER_CONFIG_DIR"]) / "labconfig" / "page_config.json").write_text(json.dumps(page), encoding="utf-8")
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}"]
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder / 'work'}"]
    command += ["--LabApp.news_url=", "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
    with open(folder / "log", "w", encoding="utf-8") as log:
        server = subprocess.Popen(command, env={**os.environ, **own}, stdout=log, stderr=log, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{address}/api", timeout=5).close()
                break
            except OSError:
                time.sleep(0.1)
        yield f"{address}/lab/tree/playground.ipynb?token={token}&reset"
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def until_ready(page, address: str) -> None:
    """Open the notebook, and wait until its kernel is there."""
    page.set_default_timeout(60_000)
    page.goto(address)
    page.wait_for_selector(".jp-Notebook .jp-Cell")
    page.get_by_text("(ipykernel) | Idle").wait_for()  # before that, JupyterLab asks which kernel to use
    news = page.get_by_role("button", name="No", exact=True)
    if news.is_visible():
        news.click()


def run_all_cells(page) -> None:
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
