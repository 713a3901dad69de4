"""The program `quartet`: finds the command and runs it."""

from __future__ import annotations

import sys
from importlib import import_module

from quartet.base import process
from quartet.base.errors import InputError

COMMANDS = {
    "prepare": "check params.yaml, the outputs' places and DVC's records, and make MLflow's store if it is missing",
    "repro": "dvc repro, with the stages that do not need each other side by side",
    "audit": "compare what DVC recorded for each training with what the training noted at its start",
    "sync": "make MLflow agree with the models that DVC has",
    "results": "print the results of the last run, and what can be done next",
    "predict": "read the digit in each of your own pictures",
    "retest": "test the models of MNIST on QMNIST's 50,000 further digits",
    "pack": "make a data set of your own from pictures that are sorted by class",
    "sweep": "search for the trial's recipe by validation accuracy, and confirm it on fresh seeds",
    "register": "put the trained models into MLflow's registry, and choose the champion",
    "serve": "serve the page of results, and read digits over HTTP",
    "ui": "serve MLflow's pages on the store that the pipeline writes to",
    "clean": "remove what the pipeline made, and nothing else",
    "publish": "write the results on MNIST into docs/ and README.md",
    "verify": "run what is committed on MNIST, and compare each output with the published one",
    "portability": "compare the bytes of a short run here and under other processors or Pythons",
}


def usage() -> str:
    """Return what `quartet --help` prints."""
    listed = "\n".join(f"  {name:<12} {what}" for name, what in COMMANDS.items())
    return (
        f"usage: quartet COMMAND [OPTION ...]\n\nTrain four tiny CNNs on MNIST with DVC and MLflow, and check the results.\n"
        f"Run it in the project's root.\n\ncommands:\n{listed}\n\n`quartet COMMAND --help` lists a command's options."
    )


def dispatch() -> None:
    """Run the command that the command line names; InputError if that is not one of COMMANDS."""
    name, *arguments = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(usage())
        return
    if name not in COMMANDS:
        raise InputError(f"quartet: expected one of {', '.join(COMMANDS)}, found '{name}'; `quartet --help` explains them")
    import_module(f"quartet.commands.{name}").main(arguments)


def main() -> None:
    """Run the program."""
    process.run(dispatch)
