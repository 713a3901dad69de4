"""What the trained models are worth, and how they compare."""
