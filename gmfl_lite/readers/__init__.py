"""Known datasets and where their samples come from: files, a folder of images, people, a formula."""

from .folder import images_in
from .natural import NATURAL, Natural, NaturalSource, read_natural
from .sources import DATASETS, DEBIAN_FASHION_MNIST, DatasetSource, add_dataset

__all__ = [
    "DATASETS", "DEBIAN_FASHION_MNIST", "NATURAL", "DatasetSource", "Natural", "NaturalSource", "add_dataset",
    "images_in", "read_natural",
]  # fmt: skip
