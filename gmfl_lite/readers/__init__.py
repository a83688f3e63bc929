"""Known datasets and where their samples come from: files, a folder of images, a formula."""

from .folder import images_in
from .gathered import Gathered, from_agents, from_frame
from .sources import DATASETS, DEBIAN_FASHION_MNIST, DatasetSource, add_dataset

__all__ = [
    "DATASETS", "DEBIAN_FASHION_MNIST", "DatasetSource", "Gathered", "add_dataset", "from_agents", "from_frame",
    "images_in",
]  # fmt: skip
