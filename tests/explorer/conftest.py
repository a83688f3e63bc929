"""Explorers that are closed at the end of a test, and the two ways in which a kernel calls back."""

import threading
import time

import pytest
from panel_helpers import QUICK, threads

import gmfl_lite as gl


@pytest.fixture
def panel():
    """Make explorers that are closed at the end, and check that their threads end, too."""
    made = []

    def make(base: gl.Experiment = QUICK, **options) -> gl.Explorer:
        made.append(gl.Explorer(base, **options))
        return made[-1]

    yield make
    for explorer in made:
        explorer.close()
    deadline = time.monotonic() + 60
    while threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not threads()


@pytest.fixture
def callback(request):
    """Call a function as a kernel calls back: ipykernel 7.0 to 7.3 from another thread, 7.4 from the main one.

    Where threads meet, tests ask for both; all others press in the main thread, or here in another.
    """

    def call(act, *arguments):
        if getattr(request, "param", "") == "main thread":
            return act(*arguments)
        thread = threading.Thread(target=act, args=arguments)
        thread.start()
        return thread.join()

    return call
