"""How a model is trained, and the record of it."""
