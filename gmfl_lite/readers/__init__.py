"""Known datasets and where their samples come from: files, a folder of images, a formula."""

from .folder import images_in
from .sources import DATASETS, DEBIAN_FASHION_MNIST, DatasetSource, add_dataset

__all__ = ["DATASETS", "DEBIAN_FASHION_MNIST", "DatasetSource", "add_dataset", "images_in"]
