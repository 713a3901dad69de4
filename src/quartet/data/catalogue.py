"""The data sets: what each is called, where its files are had, and by which hashes they are known. A new one is an entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from quartet.base import paths
from quartet.base.errors import InputError
from quartet.data.splits import Source

DIGITS = tuple("0123456789")


class Known(NamedTuple):
    """What a file is: its size in bytes and SHA-256, unpacked and as its publisher's .gz; 0 or nothing if not published.

    `name` is what its publisher calls it, if that is not its name in data/raw/.
    """

    size: int
    sha256: str
    gz_size: int
    gz_sha256: str
    name: str = ""


class Archive(NamedTuple):
    """A zip archive with the .gz files of a data set: its name, size in bytes and SHA-256, and the folder in it."""

    name: str
    size: int
    sha256: str
    folder: str


@dataclass(frozen=True)
class DataSet:
    """A data set in MNIST's form: 28x28 grey levels, ten classes.

    `files` has what is known of each file by its name in data/raw/, the smallest first, so that a mirror that fails is found
    out early; `mirrors` are URLs that they are below. `tried` says what of it was tried, and `hashes` where those are from.
    """

    name: str
    title: str
    classes: tuple[str, ...] = DIGITS
    files: Mapping[str, Known] = field(default_factory=dict)
    mirrors: tuple[str, ...] = ()
    archive: Archive | None = None
    transposed: bool = False  # rows and columns of each image are exchanged
    licence: str = ""
    citation: str = ""
    hashes: str = ""
    tried: str = ""

    @property
    def source(self) -> Source:
        """Return what is recorded with data of this set."""
        return Source(self.name, self.title, self.classes)

    @property
    def variable(self) -> str:
        """Return the environment variable that names a directory or URL of its files."""
        return f"QUARTET_{self.name.upper().replace('-', '_')}"


MNIST = DataSet(
    "mnist",
    "MNIST",
    files={
        "t10k-labels-idx1-ubyte": Known(
            10_008,
            "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
            4_542,
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6",
        ),
        "train-labels-idx1-ubyte": Known(
            60_008,
            "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            28_881,
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c",
        ),
        "t10k-images-idx3-ubyte": Known(
            7_840_016,
            "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            1_648_877,
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
        ),
        "train-images-idx3-ubyte": Known(
            47_040_016,
            "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            9_912_422,
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
        ),
    },
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    licence="CC BY-SA 3.0",
    citation="LeCun, Cortes and Burges: The MNIST database of handwritten digits, 1998",
    hashes="the files themselves",
    tried="all of it, from a directory",
)
FASHION = DataSet(
    "fashion-mnist",
    "Fashion-MNIST",
    ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    {
        "t10k-labels-idx1-ubyte": Known(
            10_008,
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            5_148,
            "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        ),
        "train-labels-idx1-ubyte": Known(
            60_008,
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            29_515,
            "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        ),
        "t10k-images-idx3-ubyte": Known(
            7_840_016,
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            4_422_102,
            "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        ),
        "train-images-idx3-ubyte": Known(
            47_040_016,
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            26_421_880,
            "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        ),
    },
    (
        "https://fashion-mnist.s3.eu-central-1.amazonaws.com/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    licence="MIT, © 2017 Zalando SE",
    citation="Xiao, Rasul and Vollgraf: Fashion-MNIST, 2017, arXiv:1708.07747",
    hashes="the files of Debian's `dataset-fashion-mnist`; of the .gz: TensorFlow Datasets",
    tried="all of it, from Debian's package; no mirror",
)
KMNIST = DataSet(
    "kmnist",
    "KMNIST",
    ("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
    {
        "t10k-labels-idx1-ubyte": Known(
            10_008, "", 5_120, "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c"
        ),
        "train-labels-idx1-ubyte": Known(
            60_008, "", 29_497, "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17"
        ),
        "t10k-images-idx3-ubyte": Known(
            7_840_016, "", 3_041_136, "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5"
        ),
        "train-images-idx3-ubyte": Known(
            47_040_016, "", 18_165_135, "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4"
        ),
    },
    ("http://codh.rois.ac.jp/kmnist/dataset/kmnist/",),
    licence="CC BY-SA 4.0, CODH",
    citation="Clanuwat and others: Deep Learning for Classical Japanese Literature, 2018, arXiv:1812.01718",
    hashes="TensorFlow Datasets and torchvision, of the .gz alone",
    tried="with files made for the tests; the real ones were not at hand",
)
EMNIST = DataSet(
    "emnist-digits",
    "EMNIST Digits",
    files={
        "t10k-labels-idx1-ubyte": Known(
            40_008,
            "",
            0,
            "bad1834c45d5988e270b99d43b13edc3fd898f658ffbc2caf2846ef27f7b05b0",
            "emnist-digits-test-labels-idx1-ubyte",
        ),
        "train-labels-idx1-ubyte": Known(
            240_008,
            "",
            0,
            "6638a6ff5fe2eefd9cca2471995b46c82986b8e4b2a70d2f5ce8e05d7edb319e",
            "emnist-digits-train-labels-idx1-ubyte",
        ),
        "t10k-images-idx3-ubyte": Known(
            31_360_016,
            "",
            0,
            "20ebe43509264f7639d37c835a3f0b009e90b29e00a099a03101abe1644a3f63",
            "emnist-digits-test-images-idx3-ubyte",
        ),
        "train-images-idx3-ubyte": Known(
            188_160_016,
            "",
            0,
            "f7c95004d14d81af89522e67d8f0c781dfb3bd544181c81bfe1eb6b41c35b726",
            "emnist-digits-train-images-idx3-ubyte",
        ),
    },
    mirrors=("https://biometrics.nist.gov/cs_links/EMNIST/",),
    archive=Archive("gzip.zip", 561_753_746, "fb9bb67e33772a9cc0b895e4ecf36d2cf35be8b709693c3564cea2a019fcda8e", "gzip/"),
    transposed=True,
    licence="none stated; derived from NIST Special Database 19",
    citation="Cohen, Afshar, Tapson and van Schaik: EMNIST, 2017, arXiv:1702.05373",
    hashes="TensorFlow Datasets, of the archive; notwa/mnists, of the .gz in it",
    tried="with files made for the tests; the real ones were not at hand",
)
SAMPLE = DataSet(
    "sample",
    "UCI digits sample, not MNIST",
    licence="CC BY 4.0",
    citation="Alpaydin and Kaynak: Optical Recognition of Handwritten Digits, 1998, by way of scikit-learn",
    tried="all of it",
)
OWN = DataSet("own", "own data", licence="yours", tried="with files made for the tests")
DATA_SETS = {it.name: it for it in (MNIST, FASHION, KMNIST, EMNIST, OWN, SAMPLE)}

AUTO = "auto"  # MNIST if it can be had, else the sample

# A second test set for models of MNIST: its first 10,000 images are MNIST's own test images, made again.
QMNIST = DataSet(
    "qmnist",
    "QMNIST",
    files={
        "qmnist-test-labels-idx2-int": Known(
            1_920_012, "", 526_800, "9fbcbe594c3766fdf4f0b15c5165dc0d1e57ac604e01422608bb72c906030d06"
        ),
        "qmnist-test-images-idx3-ubyte": Known(
            47_040_016, "", 9_742_279, "43fc22bf7498b8fc98de98369d72f752d0deabc280a43a7bcc364ab19e57b375"
        ),
    },
    mirrors=("https://raw.githubusercontent.com/facebookresearch/qmnist/master/",),
    licence="BSD 3-clause, Facebook",
    citation="Yadav and Bottou: Cold Case: The Lost MNIST Digits, 2019, arXiv:1905.10498",
    hashes="TensorFlow Datasets and torchvision, of the .gz alone",
    tried="with files made for the tests; the real ones were not at hand",
)


def chosen(source: str) -> DataSet:
    """Return the data set that `data.source` names, MNIST for `auto`; InputError if there is none."""
    if source == AUTO:
        source = MNIST.name
    if source not in DATA_SETS:
        raise InputError(f"{paths.PARAMS}: data.source: expected one of {', '.join((AUTO, *DATA_SETS))}, found '{source}'")
    return DATA_SETS[source]


def title(name: str) -> str:
    """Return the title of a data set; its name if it is not in the table any more."""
    found = DATA_SETS.get(name)
    return found.title if found else name
