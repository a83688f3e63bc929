"""float64 from the images to the checkpoint, and what it is for: the same printed digits on every processor."""

import os
import subprocess
import sys
import threading

import pytest
import torch
from other_arithmetic import ANOTHER_PROCESSOR, NUDGE

import gmfl_lite as gl
from gmfl_lite import privacy
from gmfl_lite.basics import devices, shifts

SMALL = gl.Experiment(
    model="softmax", rounds=4, n_agents=12, n_new_agents=3, agents_per_round=5, batch_size=8, eval_every=1,
    device="cpu", precision="float64",
)  # fmt: skip


def types(tensors) -> set[torch.dtype]:
    return {tensor.dtype for tensor in tensors if tensor.is_floating_point()}


@pytest.mark.parametrize("model", ["softmax", "mlp", "cnn"])
def test_a_run_starts_where_the_other_precision_does_and_computes_in_its_own(model):
    experiments = [SMALL.replace(model=model, rounds=1, precision=precision) for precision in devices.PRECISIONS]
    federations = [gl.build_federation(experiment) for experiment in experiments]
    models = [gl.build_model(model, federation) for federation in federations]
    for federation, module, dtype in zip(federations, models, devices.PRECISIONS.values(), strict=True):
        assert types([*module.parameters(), federation.train(0)[0], federation.test(0)[0]]) == {dtype}
        assert types(federation.train_sets(torch.arange(2))) == {dtype}
    for single, double in zip(*(module.parameters() for module in models), strict=True):
        assert torch.equal(single.double(), double)
    single, double = (gl.run(experiment, progress=False).params for experiment in experiments)
    for name, tensor in double.items():
        assert tensor.dtype == torch.float64
        torch.testing.assert_close(single[name].double(), tensor, rtol=0, atol=1e-5)
        assert not torch.equal(single[name].double(), tensor)


def test_what_is_given_is_computed_with_in_the_precision_asked_for(federation):
    """A federation and a module of the one type, an experiment of the other; neither is changed."""
    module = gl.build_model("softmax", federation)
    experiment = SMALL.replace(n_agents=federation.n_agents, n_new_agents=federation.n_new_agents)
    given = gl.run(experiment, federation=federation, model=module, progress=False)
    same = gl.run(experiment, federation=federation.in_precision("float64"), model=module.double(), progress=False)
    assert types(given.params.values()) == {torch.float64}
    assert all(torch.equal(given.params[name], tensor) for name, tensor in same.params.items())
    assert federation.train(0)[0].dtype == torch.float32
    single = gl.run(experiment.replace(precision="float32"), federation=federation, model=module, progress=False)
    assert types(single.params.values()) == {torch.float32}
    assert next(module.parameters()).dtype == torch.float64  # as it was made so above
    with pytest.raises(ValueError, match="precision = 'half': must be one of"):
        federation.in_precision("half")


def test_by_hand_computes_in_float64_too():
    page, fast = gl.by_hand(SMALL.replace(weighting="samples")), gl.run(SMALL.replace(weighting="samples")).params
    for name, tensor in fast.items():
        torch.testing.assert_close(page[name], tensor, rtol=0, atol=1e-13)


@pytest.mark.parametrize("engine", [gl.build_engine, privacy.protected(0.5, 0.1)], ids=["plain", "with noise"])
def test_an_interrupted_run_ends_with_the_same_bits(engine, tmp_path):
    whole = gl.run(SMALL, engine=engine, progress=False)
    stop = threading.Event()
    path = tmp_path / "checkpoint"
    part = gl.run(
        SMALL,
        engine=engine,
        checkpoint=path,
        stop=stop,
        progress=False,
        on_round=lambda round, _: round == 2 and stop.set(),
    )
    assert part.status == "stopped"
    found = gl.load_result(path)
    assert types(found.params.values()) == {torch.float64}
    resumed = gl.run(SMALL, engine=engine, checkpoint=path, progress=False)
    assert all(torch.equal(whole.params[name], tensor) for name, tensor in resumed.params.items())


def test_noise_is_drawn_for_the_round_and_the_agent():
    """Not from what the updates hold, whose last digits are the processor's; two rounds draw differently."""
    experiment = SMALL.replace(agents_per_round=12, rounds=2, meta_lr=1e-12, fine_tune_lr=1e-12)
    start = dict(gl.build_model("softmax", gl.build_federation(experiment)).named_parameters())
    after = gl.run(experiment, engine=privacy.protected(1.0, 0.1), progress=False).params
    moved = torch.cat([(after[name] - start[name]).flatten() for name in after])
    # Two rounds of the mean of twelve agents' noise: a variance of 2 · 0.1² / 12, or twice that if both draw the same.
    assert moved.std().item() == pytest.approx(0.1 * (2 / 12) ** 0.5, rel=0.1)


def test_images_are_turned_in_float64_and_stored_as_they_were(digits):
    """The same picture to rounding from float32 and from float64 images."""
    images = digits.x[:5]
    turned = shifts.rotate(images, 33.0)
    assert turned.dtype == torch.float32
    assert torch.equal(turned, shifts.rotate(images.double(), 33.0).float())


def test_a_device_without_float64_is_refused_or_passed_over(monkeypatch):
    with pytest.raises(ValueError, match="precision = 'float64': must be 'float32' with device='mps'"):
        gl.Experiment(device="mps", precision="float64")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(devices.randomness, "works_on", lambda device: True)
    assert devices.choose_device("auto").type == "mps"
    assert devices.choose_device("auto", "float64").type == "cpu"


DIGITS = """
import sys
import gmfl_lite as gl
from gmfl_lite import privacy

federation = gl.build_federation(gl.Experiment(max_rotation=30.0, precision=sys.argv[1]))
model = gl.build_model("mlp", federation)
experiment = gl.Experiment(
    rounds=60, eval_every=60, local_steps=3, fine_tune_lr=0.3, meta_lr=0.3, precision=sys.argv[1]
)
engine = privacy.protected(clip_norm=3.0, noise=0.001)
result = gl.run(experiment, federation=federation, model=model, engine=engine, progress=False)
print(result.history.loss.map("{:.9f}".format).tolist(), result.table().round(6).to_string())
"""


def printed(precision: str, before: str = "", **environment: str) -> str:
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("GMFL", "OMP"))}
    ran = subprocess.run(
        [sys.executable, "-c", before + DIGITS, precision],
        env={**inherited, "OMP_NUM_THREADS": "1", **environment}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    return ran.stdout


@pytest.mark.slow
def test_another_processor_gives_the_same_digits_in_float64_and_others_in_float32():
    """Other instructions, and a start one unit in the last place away: what a processor can differ by."""
    assert printed("float64") == printed("float64", NUDGE, **ANOTHER_PROCESSOR)
    assert printed("float32") != printed("float32", NUDGE, **ANOTHER_PROCESSOR)
