"""How much frames move: a measure a file."""
