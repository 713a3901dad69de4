"""The search for a recipe by validation accuracy, and its confirmation on fresh seeds."""
