"""Importing changes nothing; the first engine fits threads and memory to the machine, unless told not to."""

import multiprocessing
import os
import platform
import subprocess
import sys

import pytest
import torch

from gmfl_lite.engine import threads_and_memory as machine

LINUX = pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="only Linux lets a process choose its cores")
GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="this machine's allocator is not glibc's")


def python(code: str, **environment: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("GMFL", "OMP", "CPU_LIMIT"))}
    ran = subprocess.run(
        [sys.executable, "-c", code], env={**inherited, **environment}, capture_output=True, text=True, check=True
    )
    return ran.stdout.strip()


@LINUX
def test_threads_follow_affinity_limit_and_wish():
    cores = len(os.sched_getaffinity(0))
    many = "import torch; torch.set_num_threads(64)\n"  # as on a host with 64 cores of which few may be used
    code = """
import os, gmfl_lite
threads = [torch.get_num_threads()]
gmfl_lite.engine.threads_and_memory.prepare_process()
threads.append(torch.get_num_threads())
def again(torch_threads=64, **environment):
    torch.set_num_threads(torch_threads)
    os.environ.update(environment)
    gmfl_lite.engine.threads_and_memory.set_threads()
    for name in environment:
        del os.environ[name]
    threads.append(torch.get_num_threads())
again(CPU_LIMIT="1.0")
again(CPU_LIMIT="0.5")
again(CPU_LIMIT="nonsense")
again(GMFL_LITE_THREADS="0")
again(GMFL_LITE_THREADS="3")
again(torch_threads=1)
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
again()
print(threads)
"""
    assert python(many + code) == str([64, cores, 1, 1, cores, 64, 3, 1, 1])


@LINUX
@GLIBC
def test_freed_memory_is_kept_so_that_pages_fault_once():
    code = """
import resource, torch
from gmfl_lite.engine.threads_and_memory import prepare_process
prepare_process()
faults = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_minflt
def work():  # 40 MB, in pieces such as a meta step of fifty agents frees
    parts = [torch.ones(2_500_000) for _ in range(4)]
for _ in range(3):
    work()
before = faults()
for _ in range(10):
    work()
print(faults() - before)
"""
    assert int(python(code)) < 1000  # of the 98,000 pages of 4 kB that are asked for
    assert machine.keep_freed_memory()


def test_the_allocator_is_left_alone_on_request(monkeypatch):
    monkeypatch.setenv("GMFL_LITE_KEEP_MEMORY", "0")
    monkeypatch.setattr(machine.ctypes, "CDLL", None)
    assert not machine.keep_freed_memory()


@pytest.mark.skipif("mkl" not in torch.__config__.show().lower(), reason="this torch multiplies without Intel's MKL")
def test_portable_runs_give_the_bits_of_a_smaller_processor():
    """Here played by a processor whose MKL must not use more than AVX2."""
    code = """
import hashlib, gmfl_lite as gl
params = gl.run(gl.Experiment(rounds=5), progress=False).params
print(hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in params.values())).hexdigest())
"""
    smaller = {**machine.PORTABLE, "MKL_ENABLE_INSTRUCTIONS": "AVX2"}
    assert python(code, **machine.PORTABLE) == python(code, **smaller)


POOL = """
import multiprocessing, sys
from concurrent.futures import ProcessPoolExecutor
import torch
import gmfl_lite as gl

if __name__ == "__main__":
    small = gl.Experiment(model="softmax", n_agents=12, n_new_agents=4, agents_per_round=8, rounds=1, device="cpu")
    if sys.argv[2] == "a run":
        gl.run(small, progress=False)
    else:  # OpenMP's threads are there, and the library does not know
        torch.ones(3000, 3000) @ torch.ones(3000, 3000)
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(sys.argv[1])) as pool:
        table = gl.sweep({"nu": [0, 1]}, small, executor=pool, progress=False)
    print(sorted(set(table["status"])), torch.get_num_threads())
"""


@pytest.mark.slow
@pytest.mark.parametrize("before", ["a run", "products"])
@pytest.mark.parametrize("method", ["fork", "forkserver", "spawn"])
def test_a_sweep_on_processes_ends_whatever_was_computed_before(method, before, tmp_path):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system knows no {method}")
    (tmp_path / "pool.py").write_text(POOL, encoding="utf-8")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("GMFL", "OMP", "CPU_LIMIT"))}
    threads = {**inherited, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-W", "ignore", str(tmp_path / "pool.py"), method, before]
    ran = subprocess.run(command, env=threads, capture_output=True, text=True, timeout=150, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.startswith("['completed']")
