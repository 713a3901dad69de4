"""Stage fetch: MNIST's four IDX files, each verified, or the embedded sample; writes data/raw/ and which data it is."""

from __future__ import annotations

import os

from quartet.base import errors, files, params, paths, process, stage
from quartet.base.errors import InputError, WorkError
from quartet.data import idx, sources

SAMPLE_NOTICE = f"""\
*****************************************************************
  SAMPLE DATA: 1,797 digits that scikit-learn carries, NOT MNIST.
  No number below compares with the report. For MNIST:
      {sources.VARIABLE}=<directory or URL of its four files> make
*****************************************************************"""


def main() -> None:
    """Fetch what `data.source` and QUARTET_MNIST ask for."""
    settings = params.load()
    wanted = settings.data.source
    named = os.environ.get(sources.VARIABLE)
    if wanted == "sample" and named:
        raise InputError(f"data.source is sample, yet {sources.VARIABLE} names MNIST ({named}): change one of them")
    sources.check_place()
    tracked = stage.note("fetch", settings)
    files.remove_parts(paths.SOURCE, *(paths.RAW / name for name in idx.FILES))
    source = "sample"
    if wanted != "sample":
        try:
            sources.take_mnist((named,) if named else sources.MIRRORS, all_or_none=bool(named) and paths.SOURCE.exists())
            source = "mnist"
        except WorkError as error:
            if wanted == "mnist" or named:
                raise
            errors.warn(str(error))
    if source == "sample":
        sources.take_sample()
    stage.check(tracked, "fetching")  # before the record is written: without it the files do not count as fetched
    idx.record(source)
    print(SAMPLE_NOTICE if source == "sample" else f"fetch: MNIST in {paths.RAW}/, verified", flush=True)


if __name__ == "__main__":
    process.run(main)
