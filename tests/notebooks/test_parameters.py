"""The notebooks run to their end under papermill with other parameters than their own.

With their own they run in test_notebooks.py, where every output is compared. Apart from that file, so that two
processes can share the notebooks. With their first parameters they run in test_doors.py, in a folder of their own.
"""

import pytest
from test_notebooks import NOTEBOOKS, needs, tools

PARAMETERS = {
    "00-start-here": [
        {"rounds": 3, "n_agents": 2, "n_new_agents": 1, "nu": 1, "fine_tune_lr": 0.05, "seed": 4},
        {"rounds": 20, "fine_tune_lr": 0.6, "meta_lr": 0.6},  # the first of its last cell's suggestions
    ],
    "01-who-holds-what": [
        {"n_agents": 30, "n_new_agents": 30, "fine_tune_lr": 0.1, "seed": 1},
    ],
    "02-one-model-for-all": [
        {"rounds": 3, "n_agents": 10, "n_new_agents": 1, "dirichlet_alpha": 10.0, "meta_lr": 0.05, "seed": 3},
    ],
    "03-the-meta-objective-by-hand": [{"nu": 1, "seed": 1}, {"nu": 10, "fine_tune_lr": 0.1, "start_x": 1.2}],
    "06-train-at-full-size": [
        {"dataset": "digits", "mlp_rounds": 4, "cnn_rounds": 2, "n_agents": 50, "nu": 5, "seed": 1},
        {
            "dataset": "digits",
            "images": 600,
            "n_agents": 9,
            "n_new_agents": 2,
            "agents_per_round": 9,
            "nu": 0,
            "mlp_rounds": 1,
            "cnn_rounds": 1,
            "fine_tune_lr": 0.01,
            "device": "auto",
        },
    ],
    "07-explorer": [
        {"nu": 0, "rounds": 3, "weights_seed": 2},
        {"nu": 2, "rounds": 5, "gradient": "truncated", "backprop_steps": 1, "partition": "iid", "fine_tune_lr": 0.01},
    ],
    "09-evidence": [{"group": "trained"}],
    "04-how-it-converges": [
        {"n_agents": 4, "nu": 2, "rounds": 2, "fine_tune_lr": 0.01, "local_steps": 2, "seed": 1},
        {"n_agents": 6, "agents_per_round": 3, "nu": 0, "rounds": 3, "fine_tune_lr": 0.5, "step_share": 0.1},
    ],
    "10-real-federation": [
        {"n_agents": 2, "nu": 0, "rounds": 2, "image": 7, "seed": 1},
        {"n_agents": 4, "nu": 5, "rounds": 1, "fine_tune_lr": 0.3, "meta_lr": 0.01, "clip_norm": 5.0, "image": 1700},
    ],
    "11-many-machines": [
        {"largest_nu": 2, "seeds": 1, "rounds": 2},
        {"largest_nu": 10, "seeds": 1, "rounds": 1, "fine_tune_lr": 0.01, "workers": 1},
    ],
    "12-few-shots": [
        {"shots": 3, "nu": 1, "rounds": 3, "n_agents": 20, "n_new_agents": 1, "digit_rounds": 2, "seeds": 1, "seed": 3},
    ],
    "13-your-own-data": [
        {"nu": 1, "n_new_people": 1, "rounds": 2, "signal_rounds": 1, "text_rounds": 1, "seed": 2},
        {"nu": 0, "n_new_people": 6, "rounds": 4, "signal_rounds": 1, "text_rounds": 2},
    ],
    "05-when-nu-helps-and-when-it-hurts": [
        {"nu": 5, "largest_nu": 2, "rounds": 1, "n_agents": 3, "fine_tune_lr": 0.1, "real_lr": 1.0, "seed": 1},
        {"nu": 0, "largest_nu": 1, "rounds": 2, "n_agents": 4, "fine_tune_lr": 0.9, "real_lr": 0.01},
    ],
    "08-exercises": [
        {"nu": 5, "pull": 0.1, "server_lr": 1.0, "rounds": 1, "local_steps": 1, "n_agents": 10, "seed": 1},
        {"nu": 0, "fine_tune_lr": 0.05, "pull": 0.0, "rounds": 1, "local_steps": 1, "n_agents": 9, "n_new_agents": 1},
    ],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        pytest.param(path, parameters, id=f"{path.stem}-{number}")
        for path in NOTEBOOKS
        for number, parameters in enumerate(PARAMETERS[path.stem][1:], start=2)
    ],
)
def test_it_runs_without_an_error(path, parameters, tmp_path, forked_kernels):
    needs(parameters, path)
    notebook = tools.execute(path, tmp_path / path.name, parameters)
    assert not [o for cell in notebook.cells for o in cell.get("outputs", []) if o.output_type == "error"]
