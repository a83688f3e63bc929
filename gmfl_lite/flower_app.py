"""The door to `gmfl_lite.flower` for commands: `python -m gmfl_lite.flower_app`, and the apps that `flwr run` names."""

from .flower import agent, from_config, main, server, to_config, write_app

__all__ = ["agent", "from_config", "main", "server", "to_config", "write_app"]

if __name__ == "__main__":
    main()
