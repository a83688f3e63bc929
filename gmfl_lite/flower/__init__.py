"""The class as a federation: every agent on a computer of its own, joined by Flower (https://flower.ai).

Needs Flower: `pip install gmfl_lite[flower]`. notebooks/10-real-federation.ipynb has all commands.
"""

from .app import (
    CLASSROOM,
    agent,
    check_classroom,
    contents,
    from_config,
    main,
    one_answer,
    own_data,
    serve,
    server,
    to_config,
    write_app,
)
from .strategy import MetaFedAvg

__all__ = [
    "CLASSROOM",
    "MetaFedAvg",
    "agent",
    "check_classroom",
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
