"""The benchmarks run, and what RESULTS.md says of memory holds."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


@pytest.mark.slow
def test_recomputation_needs_less_memory_that_grows_by_about_one_copy_of_the_parameters_a_step():
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("peak memory is read from Linux's /proc")
    # In a process of its own, where nothing else has left free memory behind.
    code = """
from functools import partial
from meta_gradient import meta_gradient_of_all, peak_memory, problem
loss_fn, params, batches = problem(50)
copy = sum(tensor.nbytes for tensor in params.values()) / 2**20
for recompute in (False, True):
    call = lambda nu: partial(meta_gradient_of_all, loss_fn, params, *batches(nu), True, recompute=recompute)
    call(5)()
    print((peak_memory(call(25)) - peak_memory(call(5))) / 20 / copy)
"""
    ran = subprocess.run([sys.executable, "-c", code], cwd=BENCHMARKS, capture_output=True, text=True, check=True)
    through, recompute = map(float, ran.stdout.split())
    assert 0.8 < recompute < 1.8
    assert through > 1.7 * recompute


@pytest.mark.slow
def test_the_table_is_made(capsys, monkeypatch):
    spec = importlib.util.spec_from_file_location("meta_gradient", BENCHMARKS / "meta_gradient.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "NUS", (1, 2))
    frame = module.measure(agents=2, repeats=2)
    assert list(frame.index) == list(module.WAYS)
    assert (frame["ms"] > 0).all().all()
    assert module.markdown(frame).count("ν = 2") == 4
