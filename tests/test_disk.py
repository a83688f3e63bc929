"""Where nothing can be written, nothing that was computed is lost, and it is said once: full disks, others' folders."""

import os
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

resource = pytest.importorskip("resource", reason="Windows has no limits on the size of files")

NOBODY = 65534
HERE = Path(__file__).parent

PROGRAM = """
import logging, os, sys, warnings
from pathlib import Path

import pandas as pd
import torch
from click.testing import CliRunner

import gmfl_lite as gl
from gmfl_lite.command_line import program

folder, scratch, room = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "room elsewhere"
small = gl.Experiment(
    model="softmax", rounds=4, eval_every=1, n_agents=6, n_new_agents=2, agents_per_round=2, eval_steps=(0, 1)
)


def told(work):
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = work()
    (one,) = (str(warning.message) for warning in said if "gmfl_lite/" not in str(warning.filename))
    assert len(said) == 1, [str(warning.message) for warning in said]
    return found, one


def become(user):
    '''Go on as another user, who may not read this Python: so all of it is loaded before.'''
    import encodings.cp437  # noqa: F401  of names in archives

    from gmfl_lite.flower import MetaFedAvg  # noqa: F401

    for verb in ("run", "sweep", "tune"):
        assert CliRunner().invoke(program, [*asked(verb), "-q"]).exit_code == 0
    gl.sweep({"nu": [0]}, small, cache=scratch / "cache", progress=False)
    os.setgid(user)
    os.setuid(user)


def asked(verb):
    kind = ["--settings", "meta_lr", "--trials", "4", "--validation-seeds", "7"] if verb == "tune" else []
    return [verb, str(scratch / f"{verb}.yaml"), *kind]


if len(sys.argv) > 4:
    become(int(sys.argv[4]))
before = sorted(folder.iterdir())
expected = gl.run(small, progress=False)

found, said = told(lambda: gl.run(small, checkpoint=folder / "run", progress=False))
assert found.status == "completed" and found.history.equals(expected.history)
assert all(torch.equal(found.params[name], tensor) for name, tensor in expected.params.items())
assert "could not be written" in said and "the result is whole" in said, said

try:
    found.save(folder / "result")
except OSError as error:
    print("saving a result:", error)
else:
    raise AssertionError("this disk takes files")

grid = {"nu": [0, 1], "seed": range(2)}
table, said = told(lambda: gl.sweep(grid, small, cache=folder, progress=False))
pd.testing.assert_frame_equal(table, gl.sweep(grid, small, progress=False))
assert "could not be kept there" in said, said

how = {"settings": ["meta_lr"], "validation_seeds": [5], "trials": 6, "progress": False}
tuned, said = told(lambda: gl.tune(small, **how, cache=folder))
pd.testing.assert_frame_equal(tuned.table, gl.tune(small, **how).table)
assert "could not be kept there" in said, said

for verb, option, shown in (("run", "--save", "trained"), ("sweep", "--csv", "nu"), ("tune", "--csv", "the best of")):
    ran = CliRunner().invoke(program, [*asked(verb), "-q", option, str(folder / "kept")])
    assert ran.exit_code == 1, (ran.exit_code, ran.output)
    assert shown in ran.output and str(folder / "kept") in ran.output, ran.output
    assert "Traceback" not in ran.output

try:
    from gmfl_lite.flower import MetaFedAvg
except ImportError:
    print("without Flower")
else:
    lines = []
    sink = logging.Handler()
    sink.emit = lambda record: lines.append(record.getMessage())
    logging.getLogger("flwr").addHandler(sink)
    strategy = MetaFedAvg(small, 1.0, expected.params, 10, folder / "federation.result")
    for _ in range(3):
        strategy.save()
    (line,) = (line for line in lines if "cannot be saved" in line)
    assert ("it is in memory" in line) != room, line
    if room:
        kept = gl.load_result(strategy.saved)
        assert all(torch.equal(kept.params[name], tensor) for name, tensor in expected.params.items())
assert sorted(path for path in folder.iterdir() if path.suffix != ".history") == before, "nothing half-done is left"
print("all is said and kept")
"""


@contextmanager
def mounted(folder, options):
    """A small disk in memory."""
    if os.geteuid():
        pytest.skip("only an administrator mounts a disk")
    ran = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True, text=True)
    if ran.returncode:
        pytest.skip(f"this machine mounts no disk: {ran.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


@pytest.fixture
def places():
    """Two folders that another user may enter, too: tests' own are the administrator's."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        for each in ("disk", "scratch"):
            (Path(name) / each).mkdir()
        (Path(name) / "scratch").chmod(0o777)
        yield Path(name) / "disk", Path(name) / "scratch"


def nothing_is_lost(places, room="room elsewhere", user=None, **how):
    disk, scratch = places
    for verb, more in (("run", ""), ("sweep", "grid: {nu: [0, 1]}\n"), ("tune", "")):
        settings = f"model: softmax\nrounds: 1\nn_agents: 4\nagents_per_round: 2\n{more}"
        (scratch / f"{verb}.yaml").write_text(settings)
    variables = {
        **os.environ, "PYTHONPATH": os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")])),
        "HOME": str(scratch), "MPLCONFIGDIR": str(scratch), "TMPDIR": str(scratch), "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    command = [sys.executable, "-c", PROGRAM, str(disk), str(scratch), room, *([] if user is None else [str(user)])]
    ran = subprocess.run(command, cwd=scratch, env=variables, capture_output=True, text=True, timeout=900, **how)
    assert ran.stdout.endswith("all is said and kept\n"), ran.stdout + ran.stderr


@pytest.mark.slow
def test_a_full_disk(places):
    with mounted(places[0], "size=64k"):
        with open(places[0] / "everything", "wb", buffering=0) as file:
            file.write(bytes(65536))
            with pytest.raises(OSError, match="No space left"):
                file.write(bytes(4096))
        nothing_is_lost(places)


@pytest.mark.slow
def test_a_disk_that_may_only_be_read(places):
    with mounted(places[0], "ro,size=64k"):
        nothing_is_lost(places)


@pytest.mark.slow
def test_no_file_may_be_larger_than_a_few_bytes_anywhere(places):
    nothing_is_lost(
        places, "no room", preexec_fn=partial(resource.setrlimit, resource.RLIMIT_FSIZE, (100, resource.RLIM_INFINITY))
    )


@pytest.mark.slow
def test_another_users_folder(places):
    if os.geteuid():
        places[0].chmod(0o555)
        nothing_is_lost(places)
        return
    pytest.importorskip("flwr", reason="needs the extra: pip install 'gmfl_lite[flower]'")
    nothing_is_lost(places, user=NOBODY)


@pytest.mark.slow
def test_another_users_cache_is_read_and_what_cannot_be_read_is_computed_again(places):
    """One of its points is locked, one is read, and a third is new."""
    if os.geteuid():
        pytest.skip("only an administrator is two users")
    program = """
import encodings.cp437, os, sys, warnings
import gmfl_lite as gl
small = gl.Experiment(model="softmax", rounds=1, n_agents=4, n_new_agents=1, agents_per_round=2, eval_steps=(0, 1))
grid = sys.modules["gmfl_lite.sweep.grid"]
run, ran = grid.run, []
grid.run = lambda *a, **k: ran.append(a) or run(*a, **k)
gl.sweep([small], progress=False)  # loads what another user may not read
grid.entry(small, grid.Given())
ran.clear()
os.setgid(int(sys.argv[3]))
os.setuid(int(sys.argv[3]))
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    table = gl.sweep({"nu": range(int(sys.argv[2]))}, small, cache=sys.argv[1], progress=False)
print(sorted(set(table["status"])), len(ran), len(said))
print(*table["message"], file=sys.stderr)
"""
    os.chmod(places[0], 0o755)
    command = [sys.executable, "-c", program, str(places[0])]
    how = {"cwd": HERE.parent, "capture_output": True, "text": True}
    variables = {**os.environ, "HOME": str(places[1]), "MPLCONFIGDIR": str(places[1])}
    mine = subprocess.run([*command, "2", "0"], env=variables, **how)
    assert mine.stdout == "['completed'] 2 0\n", mine.stderr
    min(places[0].iterdir()).chmod(0)
    others = subprocess.run([*command, "3", str(NOBODY)], env=variables, **how)
    assert others.stdout == "['completed'] 2 1\n", others.stderr
