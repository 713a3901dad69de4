"""Stage preprocess: check the IDX files, hold images out for validation, write data/split/."""

from __future__ import annotations

from typing import Any

from quartet import data, errors, files, params, paths
from quartet.errors import InputError


def main() -> None:
    """Read data/raw/, write one file for each split and the manifest that describes them."""
    settings = params.load().data
    source = files.read_record(paths.SOURCE, "fetch")
    for name, expected in source["sha256"].items():
        if files.sha256(paths.RAW / name) != expected:
            raise InputError(f"{paths.RAW / name}: not the file that fetch recorded: damaged; {files.remake('fetch')}")
    pool = data.read_pair(paths.RAW / "train-images-idx3-ubyte", paths.RAW / "train-labels-idx1-ubyte")
    test = data.read_pair(paths.RAW / "t10k-images-idx3-ubyte", paths.RAW / "t10k-labels-idx1-ubyte")
    kept, held_out = data.split_indices(len(pool.images), settings.validation_fraction, settings.seed)
    splits = {
        "train": data.Split(pool.images[kept], pool.labels[kept]),
        "validation": data.Split(pool.images[held_out], pool.labels[held_out]),
        "test": test,
    }
    counts = {name: data.digit_counts(split.labels) for name, split in splits.items()}
    for name, digits in counts.items():
        if 0 in digits:
            raise InputError(
                f"split {name}: no image of digit {digits.index(0)}; change data.validation_fraction or data.seed"
            )
    manifest: dict[str, Any] = {"data": source["data"], "splits": {}}
    for name, split in splits.items():
        data.save_split(name, split)
        manifest["splits"][name] = {
            "images": len(split.images),
            "digit_counts": counts[name],
            "sha256": files.sha256(data.split_path(name)),
        }
    files.write_record(paths.MANIFEST, manifest)
    counted = ", ".join(f"{len(split.images):,} {name}" for name, split in splits.items())
    print(f"preprocess: {data.TITLES[source['data']]}: {counted}")


if __name__ == "__main__":
    errors.run(main)
