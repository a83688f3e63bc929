"""Importing changes nothing; the first engine fits threads and memory to the machine, unless told not to."""

import multiprocessing
import os
import platform
import subprocess
import sys
import threading

import pytest
import torch

import gmfl_lite as gl
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
def test_the_cores_that_may_be_used(monkeypatch):
    cores = os.sched_getaffinity(0)
    for limit, found in (("", len(cores)), ("1.0", 1), ("0.5", 1), ("nonsense", len(cores)), ("-1", len(cores))):
        monkeypatch.setenv("CPU_LIMIT", limit or "inf")
        assert machine.usable_cores() == found
    code = """
import os, gmfl_lite
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
print(gmfl_lite.engine.threads_and_memory.usable_cores())
"""
    assert python(code) == "1"


@pytest.fixture
def eight_cores(monkeypatch):
    """Pretend that there are eight cores, that nobody wishes anything, and that work takes the time it is told."""
    monkeypatch.delenv("GMFL_LITE_THREADS", raising=False)
    monkeypatch.setattr(machine, "usable_cores", lambda: 8)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    tried = []

    def choose(**seconds):
        def timed(work, threads):
            tried.append(threads)
            return seconds[f"on_{threads}"]

        tried.clear()
        monkeypatch.setattr(machine, "_seconds", timed)
        return machine.choose_threads(lambda: None)[0], tried

    return choose


@pytest.mark.parametrize(
    ("seconds", "chosen", "tried"),
    [
        ({"on_1": [0.004, 0.1]}, 1, [1]),  # small: no more are tried, though the first time took long
        ({"on_1": [0.1], "on_2": [0.09]}, 1, [1, 2]),
        ({"on_1": [0.1], "on_2": [0.05, 0.08]}, 1, [1, 2]),  # beside a busy neighbour it is not always fast
        ({"on_1": [0.1], "on_2": [0.06], "on_4": [0.05]}, 2, [1, 2, 4]),
        ({"on_1": [0.1], "on_2": [0.06], "on_4": [0.03], "on_8": [0.02]}, 8, [1, 2, 4, 8]),
    ],
)
def test_more_threads_only_where_they_repay_themselves(eight_cores, seconds, chosen, tried):
    assert eight_cores(**seconds) == (chosen, tried)


def test_no_more_threads_than_the_user_allows_torch(eight_cores, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    assert eight_cores(on_1=[0.1], on_2=[0.06]) == (2, [1, 2])
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    assert eight_cores() == (1, [])


def test_work_that_fails_is_left_to_fail_where_it_can_be_named():
    assert machine.choose_threads(lambda: 1 / 0)[0] == 1


SMALL = gl.Experiment(
    model="softmax", rounds=2, n_agents=6, n_new_agents=2, agents_per_round=3, eval_every=1, device="cpu"
)


@pytest.mark.slow
@pytest.mark.parametrize("execution", ["vectorized", "loop"])
def test_a_run_computes_with_the_threads_that_it_says_and_leaves_torchs_number(execution, monkeypatch):
    """Seen from inside the model, in training and in scoring; a callback and the caller see their own number."""
    seen, outside = set(), set()

    class Watched(torch.nn.Linear):
        def forward(self, x):
            seen.add(torch.get_num_threads())
            return super().forward(x.flatten(1))

    mine = torch.get_num_threads()
    torch.set_num_threads(2)
    with torch.random.fork_rng():
        model = Watched(64, 10)
    try:
        for wish, used, said in (
            ("1", {1}, "1 thread, as"),
            ("3", {3}, "3 threads, as GMFL_LITE_THREADS asks"),
            ("0", {2}, ""),
        ):
            monkeypatch.setenv("GMFL_LITE_THREADS", wish)
            seen.clear()
            result = gl.run(
                SMALL.replace(execution=execution), model=model, progress=False,
                on_round=lambda *_: outside.add(torch.get_num_threads()),
            )  # fmt: skip
            assert seen - {2} == used - {2}  # once before the engine is built, the model is tried on two images
            assert said in result.engine
            assert torch.get_num_threads() == 2
        assert outside == {2}
    finally:
        torch.set_num_threads(mine)


def test_what_measures_computes_with_one_thread_and_leaves_torchs_number(monkeypatch):
    seen = set()

    def loss_fn(params, batch):
        seen.add(torch.get_num_threads())
        return (batch[2].unsqueeze(-1) * params["w"] ** 2).sum()

    mine = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.delenv("GMFL_LITE_THREADS", raising=False)
    try:
        gl.theory.estimate_constants(loss_fn, gl.build_federation(SMALL), {"w": torch.ones(1)}, nu=1, fine_tune_lr=0.1)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(mine)
    assert seen == {1}


@pytest.mark.parametrize("wish", ["two", "-1", "1.5", "²"])
def test_a_wrong_number_of_threads_is_an_error(wish, monkeypatch):
    monkeypatch.setenv("GMFL_LITE_THREADS", wish)
    with pytest.raises(ValueError, match=f"GMFL_LITE_THREADS = '{wish}': must be a whole number"):
        gl.run(SMALL, progress=False)


def test_a_run_goes_on_with_the_threads_that_it_began_with(monkeypatch, tmp_path):
    """Sums depend on them."""
    monkeypatch.setenv("GMFL_LITE_THREADS", "2")
    stop = threading.Event()
    gl.run(SMALL, checkpoint=tmp_path / "run", stop=stop, on_round=lambda *_: stop.set(), progress=False)
    monkeypatch.setenv("GMFL_LITE_THREADS", "1")
    result = gl.run(SMALL, checkpoint=tmp_path / "run", progress=False)
    assert result.engine.endswith("2 threads, as in the checkpoint")


@pytest.mark.slow
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


def test_a_wrong_wish_for_memory_is_an_error(monkeypatch):
    monkeypatch.setenv("GMFL_LITE_KEEP_MEMORY", "no")
    with pytest.raises(ValueError, match="GMFL_LITE_KEEP_MEMORY = 'no': must be 0 or 1"):
        machine.keep_freed_memory()


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
@pytest.mark.parametrize(
    ("method", "before"), [("fork", "a run"), ("fork", "products"), ("forkserver", "products"), ("spawn", "a run")]
)  # only what is forked from the process itself inherits what was computed in it
def test_a_sweep_on_processes_ends_whatever_was_computed_before(method, before, tmp_path):
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this system knows no {method}")
    (tmp_path / "pool.py").write_text(POOL, encoding="utf-8")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("GMFL", "OMP", "CPU_LIMIT"))}
    threads = {**inherited, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-W", "ignore", str(tmp_path / "pool.py"), method, before]
    ran = subprocess.run(command, env=threads, capture_output=True, text=True, timeout=600, check=False)
    assert ran.returncode == 0, ran.stderr[-2000:]
    assert ran.stdout.startswith("['completed']")


def test_what_scores_and_explains_computes_with_one_thread_and_leaves_torchs_number(monkeypatch):
    """Two would wait for each other wherever another program computes: scoring thirty agents then takes seconds."""
    seen = set()

    class Watched(torch.nn.Linear):
        def forward(self, x):
            seen.add(torch.get_num_threads())
            return super().forward(x.flatten(1))

    mine = torch.get_num_threads()
    monkeypatch.delenv("GMFL_LITE_THREADS", raising=False)
    with torch.random.fork_rng():
        model = Watched(64, 10)
    experiment, federation = SMALL.replace(nu=1), gl.build_federation(SMALL)
    result = gl.run(experiment, federation=federation, model=model, progress=False)
    torch.set_num_threads(2)
    try:
        for work in (
            lambda: result.evaluate(federation),
            lambda: result.personalise(*federation.train(0), steps=1),
            lambda: gl.by_hand(experiment, federation, model),
            lambda: gl.explain.adaptation(result, federation),
            lambda: gl.explain.one_round(experiment, federation=federation, model=model),
        ):
            seen.clear()
            work()
            assert seen == {1}
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(mine)
