"""Train many seeds, and say what they show together."""
