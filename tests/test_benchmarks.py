"""The benchmarks run, and what RESULTS.md says of memory holds."""

import csv
import importlib
import re
import subprocess
import sys
from functools import partial
from graphlib import TopologicalSorter

import house
import nbformat
import numpy as np
import pytest
import torch
from clean_machine import ROOT

import gmfl_lite as gl
from gmfl_lite.models import as_functions, cross_entropy

BENCHMARKS = ROOT / "benchmarks"
HOLDING = """import os, time
from pathlib import Path
held = b'x' * 200_000_000
Path(f'held-{os.getpid()}').touch()
while len([*Path().glob('held-*')]) not in (1, 4, 5, 8):  # until all do who are to hold it at once
    time.sleep(0.05)
time.sleep(2)"""
MODULES = sorted(path.stem for path in BENCHMARKS.glob("*.py"))


@pytest.fixture
def benchmarks(monkeypatch):
    """The benchmarks' modules, which find each other as scripts in one folder do."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    drawn = np.random.get_state()  # noqa: NPY002
    yield importlib.import_module
    np.random.set_state(drawn)  # noqa: NPY002  JAX draws when it is imported
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.mark.parametrize(("model", "through"), [("mlp", 3.5), ("cnn", 73)])
def test_recomputing_keeps_one_copy_of_the_parameters_a_step(benchmarks, digits, model, through):
    """A graph keeps a step's activations and most of its weights; counted by the allocator."""
    federation = gl.Federation.from_partition(digits, gl.partition(digits.y, gl.IID(), 3, seed=0), n_new_agents=1)
    predict, params = as_functions(gl.build_model(model, federation), torch.device("cpu"))
    batch = [tensor[0] for tensor in federation.example(20)]
    copy = sum(tensor.nbytes for tensor in params.values())
    peak, gradient = benchmarks("memory").peak_allocated, partial(gl.meta_gradient, cross_entropy(predict), params)

    def grows(**how):
        """By how many copies of the parameters for each step more."""
        few, many = (peak(partial(gradient, [batch] * nu, batch, fine_tune_lr=0.1, **how)) for nu in (2, 12))
        return (many - few) / 10 / copy

    assert grows(recompute=True) == pytest.approx(1, abs=0.01)
    assert grows() == pytest.approx(through, rel=0.1)


def test_scripts_are_found_and_none_needs_the_one_that_needs_it(benchmarks):
    for name in MODULES:
        assert benchmarks(name)
    graph = {name: others & {*MODULES} for name, others in house.foreign(BENCHMARKS).items()}
    graph["harness"].add("contenders")  # which it imports by its name
    TopologicalSorter(graph).prepare()  # CycleError where there is a circle


def test_what_people_wait_for_is_written_down_and_compared_with_the_last_time(benchmarks, monkeypatch, tmp_path):
    """Made-up seconds: of a slow day, on which all takes twice as long, of a slower version, of another processor."""
    module, harness = benchmarks("waiting"), benchmarks("harness")
    results, history = tmp_path / "RESULTS.md", tmp_path / "history.csv"
    results.write_text(harness.RESULTS.read_text(encoding="utf-8"), encoding="utf-8")
    history.write_text(module.HISTORY.read_text(encoding="utf-8").partition("\n")[0] + "\n", encoding="utf-8")
    monkeypatch.setattr(harness, "RESULTS", results)
    monkeypatch.setattr(module, "HISTORY", history)
    monkeypatch.setattr(module, "revision", lambda: "1234567")
    monkeypatch.setattr("sys.argv", ["waiting.py"])
    took = {program: 2.0 + number for number, program in enumerate(module.WAITS.values())}

    def lines(day=1.0, slower=1.0, processor="a kind"):
        def seconds(program):
            return day * (1.5 if program == module.YARDSTICK else slower * took[program])

        monkeypatch.setattr(module, "seconds", seconds)
        monkeypatch.setattr(module, "processor", lambda: processor)
        module.main()
        section = results.read_text(encoding="utf-8").split("<!-- waiting -->")[1].split("<!-- end -->")[0]
        return section.split("| --- |\n")[1].splitlines()

    first = lines()
    assert first[:3] == [
        "| import torch | 2.0 |  | 1.33 |  |",
        "| import gmfl_lite | 3.0 | at most 1 more than import torch, met | 2.00 |  |",
        "| the first point of the default run, import included | 4.0 | at most 3, **not met** | 2.67 |  |",
    ]
    assert lines(day=2.0)[0] == "| import torch | 4.0 |  | 1.33 | 1.00 than 1234567 |"
    assert lines(slower=1.2)[0] == "| import torch | 2.4 |  | 1.60 | 1.20 **slower** than 1234567 |"
    assert lines(processor="another")[0] == first[0]
    with history.open(encoding="utf-8", newline="") as file:
        kept = list(csv.DictReader(file))
    assert [row["what"] for row in kept] == [*module.WAITS] * 4
    assert {row["version"] for row in kept} == {gl.__version__}
    assert [float(row["seconds"]) for row in kept[:2]] == [2.0, 3.0]


@pytest.mark.slow
def test_what_people_wait_for_runs(benchmarks):
    """All but the notebook and the default run, which take a minute, with few rounds, as written otherwise."""
    module = benchmarks("waiting")
    for what, program in module.WAITS.items():
        if "notebook" not in what:
            short = program.replace("rounds=30", "rounds=2").replace("gl.Experiment()", "gl.Experiment(rounds=2)")
            assert 0 < module.seconds(short) < 300, what
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        module.seconds("1 / 0")


def test_runs_beside_others_are_written_down_with_what_was_aimed_at(benchmarks, monkeypatch, tmp_path):
    """Real neighbours, and runs of made-up lengths: 5 s, and 6 s more for each program beside it, or 60."""
    module, harness = benchmarks("neighbours"), benchmarks("harness")
    results = tmp_path / "RESULTS.md"
    results.write_text(harness.RESULTS.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(harness, "RESULTS", results)
    monkeypatch.setattr("sys.argv", ["neighbours.py"])
    running = []
    popen = subprocess.Popen
    monkeypatch.setattr(
        module.subprocess, "Popen", lambda *args, **more: running.append(popen(*args, **more)) or running[-1]
    )

    def seconds(threads=""):
        busy = sum(process.poll() is None for process in running)
        return 5.0 + 6.0 * busy * {"1": 0, "": 1}.get(threads, 10)

    monkeypatch.setattr(module, "seconds", seconds)
    module.main()
    text = results.read_text(encoding="utf-8")
    assert "| nobody | 1.00 | at most 1.1, met | 1.0 |" in text
    assert "| one busy process | 2.20 | at most 1.5, **not met** | 13.0 |" in text
    assert "| two busy processes | 3.40 | at most 3, **not met** | 25.0 |" in text
    assert len(running) >= 4
    assert all(process.poll() is not None for process in running)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="what processes share is counted on Linux alone")
def test_a_class_at_once_takes_the_memory_of_all_and_the_seconds_of_the_slowest(benchmarks, monkeypatch, tmp_path):
    """Real kernels that hold 200 MB each for two seconds: one, then three, and the same with all cores."""
    module = benchmarks("classroom")
    page, folder = tmp_path / "server.md", tmp_path / "notebooks"
    page.write_text("Before.\n<!-- measured -->\nof before\n<!-- end -->\nAfter.\n", encoding="utf-8")
    folder.mkdir()
    cell = nbformat.v4.new_code_cell(
        f"{HOLDING}\nopen('threads', 'a').write(os.environ.get('OMP_NUM_THREADS', 'free '))"
    )
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), folder / "00-hold.ipynb")
    for name, value in {"ROOT": tmp_path, "PAGE": page, "LESSON": ("00",), "STUDENTS": (1, 3)}.items():
        monkeypatch.setattr(module, name, value)
    ran = []
    run_at_once = module.run_at_once

    async def watched(path, students, *settings):
        ran.append(await run_at_once(path, students, *settings))
        return ran[-1]

    monkeypatch.setattr(module, "run_at_once", watched)
    monkeypatch.setattr("sys.argv", ["classroom.py"])
    module.main()
    alone, three, alone_and_free, three_and_free = ran
    assert (folder / "threads").read_text(encoding="utf-8") == "1111free free free free "
    assert len(alone.seconds) == 1
    assert len(three.seconds) == 3
    assert min(*alone.seconds, *three.seconds) >= 2
    assert max(three.seconds) < sum(three.seconds) / 2  # at once, not one after the other
    assert 0.4e9 < three.memory - alone.memory < 0.7e9  # 200 MB each, and a kernel's own
    text = page.read_text(encoding="utf-8")
    assert text.startswith("Before.")
    assert text.endswith("<!-- end -->\nAfter.\n")
    assert f"| [00](../notebooks/00-hold.ipynb) | {alone} | {three} |\n" in text
    assert f"| 00 with all cores for everybody | {alone_and_free} | {three_and_free} |\n" in text
    assert re.search(r"Each further kernel takes 0\.[23]\d GB", text)
    assert "of before" not in text


@pytest.mark.slow
def test_the_table_is_made(benchmarks, monkeypatch):
    module = benchmarks("meta_gradient")
    monkeypatch.setattr(module, "NUS", (1, 2))
    frame = module.measure(agents=2, repeats=2)
    assert list(frame.index) == list(module.WAYS)
    assert (frame["ms"] > 0).all().all()
    assert module.markdown(frame).count("ν = 2") == 4


@pytest.mark.slow
@pytest.mark.parametrize("method", ["exact", "first_order"])
@pytest.mark.parametrize("nu", [0, 2])
def test_contenders_do_the_same_work(benchmarks, method, nu):
    """What is raced gives the same parameters after the same meta step of the same agents."""
    contenders = benchmarks("contenders")
    agents = 3
    ((updates, _),) = contenders.ours(agents, nu, method)()
    mine = [
        torch.stack([tensor[agent].flatten()[:50] for tensor in updates.values() if tensor[agent].numel() > 50])
        for agent in range(agents)
    ]
    rivals = {"plain_loop": {"method": method}, "jax_vmap": {"method": method}}
    if method == "exact":
        rivals |= {"torchopt_loop": {}, "higher_loop": {}}
    for name, arguments in rivals.items():
        try:
            found = getattr(contenders, name)(agents, nu, **arguments)()
        except ImportError:
            continue
        if isinstance(found, dict):
            rows = [[torch.from_numpy(np.array(found[key][agent])) for key in updates] for agent in range(agents)]
        else:
            rows = found
        for agent, tensors in enumerate(rows):
            theirs = torch.stack([tensor.detach().flatten()[:50] for tensor in tensors if tensor.numel() > 50])
            torch.testing.assert_close(
                theirs, mine[agent], rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}"
            )


@pytest.mark.slow
def test_a_race_times_every_contender_and_leaves_out_what_is_not_installed(benchmarks, monkeypatch):
    harness = benchmarks("harness")
    monkeypatch.setenv("PYTHONPATH", str(BENCHMARKS))
    times = harness.race({"a": ("our_width", {"width": 5}), "b": ("our_fedavg", {"agents": 2, "size": 4})}, repeats=1)
    assert set(times) == {"a", "b"}
    assert all(0 < seconds < 600 for seconds in times.values())
    assert harness.table(["x"], [[1], [2]]) == "| x |\n| --- |\n| 1 |\n| 2 |"
