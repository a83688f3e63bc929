"""What `make thorough` runs and the suite does not: more parameters, more seeds, and tests that take minutes."""

import os

import pytest

EVERY = "THOROUGH" in os.environ
only_then = pytest.mark.skipif(not EVERY, reason="takes minutes: `make thorough` runs it")
