"""The report's network, its weights and its predictions."""
