"""All exercises, and which of their checks take seconds."""

import pytest

import gmfl_lite as gl

EXERCISES = gl.exercises.every()
SLOW = {"one_beats_ten"}
each = pytest.mark.parametrize("exercise", EXERCISES, ids=lambda one: one.name)
