"""Modules of optional extras are collected only where the extra is installed."""

from importlib.util import find_spec

NEEDS = {
    "gmfl_lite/flower": "flwr",
    "gmfl_lite/flower_app.py": "flwr",
    "gmfl_lite/exercises/prediction.py": "ipywidgets",
    "gmfl_lite/explorer": "ipywidgets",
}

collect_ignore = [path for path, package in NEEDS.items() if not find_spec(package)]
