"""The class as a federation: every agent on a computer of its own, joined by Flower (https://flower.ai).

Needs Flower: `pip install gmfl_lite[flower]`. notebooks/10-real-federation.ipynb has all commands.
"""

from .app import (
    agent,
    contents,
    main,
    one_answer,
    own_data,
    serve,
    server,
    write_app,
)
from .classroom import CLASSROOM, check_classroom, check_node, from_config, to_config
from .strategy import MetaFedAvg

__all__ = [
    "CLASSROOM",
    "MetaFedAvg",
    "agent",
    "check_classroom",
    "check_node",
    "contents",
    "from_config",
    "main",
    "one_answer",
    "own_data",
    "serve",
    "server",
    "to_config",
    "write_app",
]
