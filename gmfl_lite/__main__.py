"""`python -m gmfl_lite`: see `gmfl_lite.command_line`."""

from .command_line import main

if __name__ == "__main__":
    main()
