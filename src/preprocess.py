"""Stage preprocess: check the IDX files, hold images out for validation, write data/split/."""

from __future__ import annotations

from quartet.base import files, params, paths, process, stage
from quartet.data import idx, splits


def main() -> None:
    """Read data/raw/, write one file for each split and the manifest that describes them."""
    settings = params.load()
    files.remove_parts(paths.MANIFEST, *map(paths.split, splits.SPLITS))
    source = idx.check()
    tracked = stage.note("preprocess", settings)
    pool, test = (splits.Split(*pair) for pair in idx.read_sets(paths.RAW))
    divided = splits.divide(pool, test, settings.data.validation_fraction, settings.data.seed)
    stage.check(tracked)
    splits.save_all(divided, source)
    counted = ", ".join(f"{len(split.images):,} {name}" for name, split in divided.items())
    print(f"preprocess: {source.title}: {counted}")


if __name__ == "__main__":
    process.run(main)
