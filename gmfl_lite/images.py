"""An agent's own images: a folder for every class, made to look like those of a dataset."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps

from .data import Dataset

CLUTTER = ("Thumbs.db", "desktop.ini")
"""What Windows leaves in folders of images; other systems' clutter begins with a dot."""


def load_images(folder: str | Path, *, like: Dataset, invert: bool = False) -> Dataset:
    """Read a folder of images, in the size, colours and classes of a dataset.

    Parameters
    ----------
    folder : holds a folder for every class that the agent has images of, named as in `like.classes`.
    like : the dataset; images are scaled to its height and width, and made grey where it is.
    invert : whether to exchange dark and light: pencil on paper becomes light on dark, as in digits.

    Raises
    ------
    ValueError : no such folder, a folder that is not the name of a class, fewer than two images, or a file that is no
        image or of a kind that cannot be read, such as HEIC.

    Examples
    --------
    >>> import tempfile
    >>> import gmfl_lite as gl
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for name in "37":
    ...         (Path(folder) / name).mkdir()
    ...         Image.new("L", (20, 30), 255).save(Path(folder) / name / "first.png")
    ...     load_images(folder, like=gl.load_dataset("digits")).y.tolist()
    [3, 7]
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(f"images = {str(folder)!r}: must be a folder with a folder of images for every class")
    unknown = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name not in like.classes)
    if unknown:
        raise ValueError(f"{folder}: {', '.join(unknown)} must be among the classes, {', '.join(like.classes)}")
    channels, height, width = like.x.shape[1:]
    pixels, labels = [], []
    for label, name in enumerate(like.classes):
        for path in sorted((folder / name).glob("[!.]*")):
            if path.name in CLUTTER:
                continue
            try:
                with Image.open(path) as image:
                    upright = ImageOps.exif_transpose(image)  # telephones note how they were held
                    image = upright.convert("L" if channels == 1 else "RGB").resize((width, height))
            except OSError as error:
                advice = "save it as PNG or JPEG, or take it out of the folder"
                raise ValueError(f"{path} is not an image that can be read: {advice} ({error})") from error
            pixels.append(np.asarray(image, np.float32).reshape(height, width, channels) / 255)
            labels.append(label)
    if len(pixels) < 2:
        raise ValueError(f"{folder}: must hold at least 2 images, one to train on and one to score")
    x = torch.from_numpy(np.stack(pixels)).movedim(-1, 1).contiguous()
    return Dataset(folder.name, 1 - x if invert else x, torch.tensor(labels), like.classes)
