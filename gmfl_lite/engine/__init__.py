"""How local updates are computed fast."""
