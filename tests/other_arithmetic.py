"""Another processor's arithmetic, played by this one: other instructions, another order of sums, another last digit."""

from pathlib import Path

ANOTHER_PROCESSOR = {
    "ATEN_CPU_CAPABILITY": "default",  # PyTorch's kernels without wide instructions
    "MKL_CBWR": "COMPATIBLE",  # Intel's products as on a processor of another maker
    "ONEDNN_MAX_CPU_ISA": "SSE41",  # convolutions
    "OPENBLAS_CORETYPE": "Nehalem",  # NumPy's products
}
"""Environment of a new process."""
PRODUCTS = ("MKL_CBWR", "ONEDNN_MAX_CPU_ISA", "OPENBLAS_CORETYPE")
"""Those of them that are about products; "" is this processor's own way."""

NUDGE = '''
import sys
from importlib.machinery import PathFinder


class Nudging:
    """Find gmfl_lite.models, whose build_model then moves every weight by one unit in its last place."""

    def find_spec(self, name, path=None, target=None):
        if name != "gmfl_lite.models":
            return None
        spec = PathFinder.find_spec(name, path, target)
        spec.loader.exec_module = nudged(spec.loader.exec_module)
        return spec


def nudged(exec_module):
    def execute(module):
        import torch

        exec_module(module)
        build_model = module.build_model

        def build_nudged_model(*args, **kwargs):
            model = build_model(*args, **kwargs)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.copy_(torch.nextafter(parameter, torch.full_like(parameter, torch.inf)))
            return model

        module.build_model = build_nudged_model

    return execute


sys.meta_path.insert(0, Nudging())
'''


def nudged_kernels(folder: Path) -> dict[str, str]:
    """Return the environment in which every new notebook kernel starts from nudged weights."""
    startup = folder / "profile_default" / "startup"
    startup.mkdir(parents=True, exist_ok=True)
    (startup / "nudge.py").write_text(NUDGE, encoding="utf-8")
    return {"IPYTHONDIR": str(folder)}
