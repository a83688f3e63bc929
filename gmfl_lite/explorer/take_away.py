"""What-ifs to take away: a Python program, papermill commands for the playground notebook, a file of settings."""

import shlex
from collections.abc import Sequence
from typing import Any

from ..basics.plain_yaml import written
from ..basics.setting_records import settings
from ..experiment import Experiment
from .what_if import WhatIf


def as_python(what_ifs: Sequence[WhatIf]) -> str:
    """Return a program that leaves in `results` what the explorer shows, bit for bit.

    >>> print(as_python([WhatIf(Experiment(nu=1), 0)]))
    import gmfl_lite as gl
    <BLANKLINE>
    experiment = gl.Experiment(nu=1)
    results = [gl.run(experiment)]
    """
    first, given = what_ifs[0].experiment, what_ifs[0].given
    kind, name, program = type(first), "gl.Experiment", "import gmfl_lite as gl\n"
    if kind is not Experiment:
        name, program = kind.__name__, f"{program}from {kind.__module__} import {kind.__name__}\n"
    if given.arguments:
        handed = "".join(f", {argument}={argument}" for argument in given.arguments)
        program += f"\n# Here {' and '.join(given.arguments)} must be what you handed over.\n"
    else:
        handed = ""
    program += f"\nexperiment = {name}({_arguments(_differences(first, kind()))})\n"
    call = f"gl.run({{}}{handed})"
    apart = any(what_if.weights_seed != what_if.experiment.seed for what_if in what_ifs)
    if apart and "model" not in given.arguments:
        data = "gl.load_dataset(experiment.dataset)" if given.federation is None else "federation"
        program += _RUN_FROM_WEIGHTS.format(data=data, handed=handed)
        call = "run({}, weights_seed={})"
    calls = []
    for what_if in what_ifs:
        changes = _arguments(_differences(what_if.experiment, first))
        calls.append(call.format(f"experiment.replace({changes})" if changes else "experiment", what_if.weights_seed))
    return program + "results = [" + (calls[0] if len(calls) == 1 else "\n    " + ",\n    ".join(calls) + ",\n") + "]"


_RUN_FROM_WEIGHTS = """

def run(experiment, weights_seed):
    model = gl.build_model(experiment.model, {data}, seed=weights_seed)
    return gl.run(experiment, model=model{handed})


"""

NOTEBOOK = "07-explorer.ipynb"
WITHOUT_PARAMETER = ("size_spread", "test_fraction", "weighting", "execution", "eval_agents")
"""The settings that the playground notebook has no parameter for."""
PARAMETERS = (*(name for name in settings(Experiment) if name not in WITHOUT_PARAMETER), "weights_seed")


def as_papermill(what_ifs: Sequence[WhatIf]) -> str:
    """Return shell commands that run the playground notebook at each what-if, and FedAvg to compare with."""
    if handed := [name for what_if in what_ifs[:1] for name in what_if.given.arguments]:
        return f"# The notebook takes no {' or '.join(handed)} of your own: use the program in Python."
    lines = ["cd notebooks"]
    for number, what_if in enumerate(what_ifs, 1):
        values = {name: what_if.value(name) for name in PARAMETERS}
        values["eval_steps"] = " ".join(map(str, values["eval_steps"]))
        given = " ".join(f"-p {name} {shlex.quote(str(value))}" for name, value in values.items())
        lines.append(f"papermill {NOTEBOOK} explored-{number}.ipynb {given}")
        for name, value in _differences(what_if.experiment, type(what_if.experiment)()).items():
            if name not in PARAMETERS:
                lines.append(f"# but {name} = {value!r}, which the notebook has no parameter for")
    return "\n".join(lines)


def as_yaml(what_ifs: Sequence[WhatIf]) -> str:
    """Return a file for the command line: for each what-if, the settings that differ from the defaults.

    >>> print(as_yaml([WhatIf(Experiment(nu=1), 0), WhatIf(Experiment(nu=1), 4)]))
    # Save it as explored.yaml, then: python -m gmfl_lite run explored.yaml --figure explored.png
    nu: 1
    ---
    nu: 1
    weights_seed: 4
    """
    kind = type(what_ifs[0].experiment)
    if handed := [*what_ifs[0].given.arguments, *([kind.__name__] if kind is not Experiment else [])]:
        return f"# The command line takes no {' or '.join(handed)} of your own: use the program in Python."
    documents = []
    for what_if in what_ifs:
        changes = _differences(what_if.experiment, kind())
        if what_if.weights_seed != what_if.experiment.seed:
            changes["weights_seed"] = what_if.weights_seed
        documents.append(written(changes))
    return "\n".join([_HOW_TO_RUN, "\n---\n".join(documents)])


_HOW_TO_RUN = "# Save it as explored.yaml, then: python -m gmfl_lite run explored.yaml --figure explored.png"


def _differences(experiment: Experiment, other: Experiment) -> dict[str, Any]:
    return {name: value for name, value in vars(experiment).items() if value != getattr(other, name)}


def _arguments(changes: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in changes.items())
