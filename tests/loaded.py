"""What runs in many new processes, with all that it imports: they are forked from one that has imported it."""

import in_a_child  # noqa: F401
import IPython  # noqa: F401
import ipywidgets  # noqa: F401
import matplotlib.pyplot  # noqa: F401
import pandas as pd  # noqa: F401
import pytest  # noqa: F401  which multiprocessing imports in each of them, as it is what runs the tests
import seaborn as sns  # noqa: F401
from ipykernel import kernelapp  # noqa: F401

from gmfl_lite import exercises, plots, theory  # noqa: F401
from gmfl_lite.engine.threads_and_memory import load_derivatives

load_derivatives()
