"""Modules of optional extras are collected only where the extra is installed."""

from importlib.util import find_spec

collect_ignore = [] if find_spec("flwr") else ["gmfl_lite/flower", "gmfl_lite/flower_app.py"]
