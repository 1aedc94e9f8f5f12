"""Dataset sources, one module each, and the canonical form they all reach."""
