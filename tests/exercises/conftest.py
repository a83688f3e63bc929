"""What the tests of the exercises share."""

import pytest

import gmfl_lite as gl


@pytest.fixture(autouse=True)
def forgotten():
    """Every test starts as a new kernel does."""
    for one in gl.exercises.every():
        one.forget()
