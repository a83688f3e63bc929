"""What everything else stands on: refusals of wrong values, random numbers by name, results on disk."""

__version__ = "0.1.0"
