"""Another processor's arithmetic, played by this one: other instructions, another order of sums, another last digit."""

from pathlib import Path

ANOTHER_PROCESSOR = {
    "ATEN_CPU_CAPABILITY": "default",  # PyTorch's kernels without wide instructions
    "MKL_CBWR": "COMPATIBLE",  # Intel's products as on a processor of another maker
    "ONEDNN_MAX_CPU_ISA": "SSE41",  # convolutions
    "OPENBLAS_CORETYPE": "Nehalem",  # NumPy's products
}
"""Environment of a new process."""

NUDGE = '''
import sys

import torch

import gmfl_lite.models

build_model = gmfl_lite.models.build_model


def nudged(*args, **kwargs):
    """Return the model with every weight moved by one unit in its last place."""
    model = build_model(*args, **kwargs)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.nextafter(parameter, torch.full_like(parameter, torch.inf)))
    return model


for module in list(sys.modules.values()):
    if getattr(module, "build_model", None) is build_model:
        module.build_model = nudged
'''


def nudged_kernels(folder: Path) -> dict[str, str]:
    """Return the environment in which every new notebook kernel starts from nudged weights."""
    startup = folder / "profile_default" / "startup"
    startup.mkdir(parents=True, exist_ok=True)
    (startup / "nudge.py").write_text(NUDGE, encoding="utf-8")
    return {"IPYTHONDIR": str(folder)}
