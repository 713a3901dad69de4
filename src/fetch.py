"""Stage fetch: the four IDX files of a data set, each verified, or the sample; writes data/raw/ and which data it is."""

from __future__ import annotations

import os

from quartet.base import errors, files, params, paths, process, stage
from quartet.base.errors import InputError, WorkError
from quartet.data import catalogue, idx, own, sources

SAMPLE_NOTICE = f"""\
*****************************************************************
  SAMPLE DATA: 1,797 digits that scikit-learn carries, NOT MNIST.
  No number below compares with the report. For MNIST:
      {catalogue.MNIST.variable}=<directory or URL of its four files> make
*****************************************************************"""


def main() -> None:
    """Fetch what `data.source` and the data set's variable, such as QUARTET_MNIST, ask for."""
    settings = params.load()
    data_set = catalogue.chosen(settings.data.source)
    variable = catalogue.MNIST.variable if data_set is catalogue.SAMPLE else data_set.variable
    named = os.environ.get(variable)
    if data_set is catalogue.SAMPLE and named:
        raise InputError(f"data.source is sample, yet {variable} names MNIST ({named}): change one of them")
    sources.check_place(variable)
    sources.warn_of_unread(settings.data.source, variable)
    tracked = stage.note("fetch", settings)
    files.remove_parts(paths.SOURCE, *(paths.RAW / name for name in idx.FILES))
    if data_set is catalogue.OWN:
        source = sources.take_own(named or own.FOLDER.as_posix())
    elif data_set is catalogue.SAMPLE:
        source = sources.take_sample()
    else:
        try:
            sources.take(
                data_set, (named,) if named else data_set.mirrors, all_or_none=bool(named) and paths.SOURCE.exists()
            )
            source = data_set.source
        except WorkError as error:
            if named or settings.data.source != catalogue.AUTO:
                raise
            errors.warn(str(error))
            source = sources.take_sample()
    stage.check(tracked, "fetching")  # before the record is written: without it the files do not count as fetched
    idx.record(source)
    is_sample = source == catalogue.SAMPLE.source
    print(SAMPLE_NOTICE if is_sample else f"fetch: {source.title} in {paths.RAW}/, verified", flush=True)


if __name__ == "__main__":
    process.run(main)
