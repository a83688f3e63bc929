"""Generalized meta federated learning, to learn from and to explore.

Agents with private data train one shared initial model w so that each does well after ν gradient steps on its own data:

    min_w (1/n) Σ_i f_i(w_i⁽ᵛ⁾),   w_i⁽⁰⁾ = w,   w_i⁽ʲ⁾ = w_i⁽ʲ⁻¹⁾ − α ∇f_i(w_i⁽ʲ⁻¹⁾)

(Jamali, Saber, Bae, arXiv 2504.21327, 2025). ν = 0 is FedAvg, ν = 1 is Per-FedAvg.

>>> import gmfl_lite as gl
>>> result = gl.run(gl.Experiment(nu=3, rounds=10), progress=False)
>>> result.status
'completed'
"""

import sys
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import TYPE_CHECKING

from .basics import __version__ as __version__

if TYPE_CHECKING:  # for editors and type checkers, which complete these names and refuse misspelled ones
    from .face import *  # noqa: F403
else:
    _NOT_ROOMS = ("by_hand", "methods", "partition", "sweep")

    class _Package(ModuleType):
        """Keeps these names for what the face offers, although importing the room of the same name would set it."""

        def __setattr__(self, name: str, value: object) -> None:
            if not (name in _NOT_ROOMS and isinstance(value, ModuleType)):
                super().__setattr__(name, value)

    sys.modules[__name__].__class__ = _Package

    def __getattr__(name: str) -> object:
        """Load torch and all else when a name is first asked for: `python -m gmfl_lite --help` asks for none."""
        if name.startswith("__") and name != "__all__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        if name not in _NOT_ROOMS and find_spec(f"{__name__}.{name}"):
            return import_module(f".{name}", __name__)
        if name == "Explorer":
            return _explorer()
        face = import_module(".face", __name__)
        globals().update({each: getattr(face, each) for each in face.__all__ if hasattr(face, each)})
        if name == "__all__":
            return face.__all__
        if name not in face.__all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return globals()[name]

    def _explorer() -> object:
        try:
            return globals().setdefault("Explorer", import_module(".explorer", __name__).Explorer)
        except ModuleNotFoundError as error:
            if error.name not in ("IPython", "ipywidgets"):
                raise
            raise ImportError(f"gl.Explorer needs {error.name}: pip install 'gmfl_lite[notebooks]'") from error


def __dir__() -> list[str]:
    return sorted({*globals(), *import_module(".face", __name__).__all__})
