"""`python -m quartet`: the program `quartet`, by the Python that runs it."""

from quartet.commands import cli

if __name__ == "__main__":
    cli.main()
