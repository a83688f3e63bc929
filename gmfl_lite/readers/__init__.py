"""Where samples come from: files, a folder of images, people's own arrays and tables, a formula."""

from .folder import images_in
from .gathered import Gathered, from_agents, from_frame, one_agent
from .natural import NATURAL, Natural, NaturalSource, read_natural
from .sources import DATASETS, DEBIAN_FASHION_MNIST, DatasetSource, add_dataset
from .studies import read_study

__all__ = [
    "DATASETS", "DEBIAN_FASHION_MNIST", "NATURAL", "DatasetSource", "Gathered", "Natural", "NaturalSource",
    "add_dataset", "from_agents", "from_frame", "images_in", "one_agent", "read_natural", "read_study",
]  # fmt: skip
