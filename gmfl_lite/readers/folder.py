"""Somebody's own images, from a folder."""

from pathlib import Path

import numpy as np
import torch

from ..basics import checks

CLUTTER = ("Thumbs.db", "desktop.ini")
"""What Windows leaves in folders of images; other systems' clutter begins with a dot."""


def images_in(folder: Path, classes: tuple[str, ...], shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images [N, C, H, W] and labels, from a folder with a folder for each class; it raises as `load_images`."""
    from PIL import Image, ImageOps  # as late as sklearn and torchvision

    if not folder.is_dir():
        raise ValueError(f"images = {str(folder)!r}: must be a folder with a folder of images for every class")
    unknown = sorted(path.name for path in folder.iterdir() if path.is_dir() and path.name not in classes)
    if unknown:
        raise ValueError(f"{folder}: {checks.few(unknown)} must be among the classes, {checks.few(classes, 12)}")
    channels, height, width = shape
    pixels, labels = [], []
    for label, name in enumerate(classes):
        for path in sorted((folder / name).glob("[!.]*")):
            if path.name in CLUTTER:
                continue
            try:
                with Image.open(path) as image:
                    upright = ImageOps.exif_transpose(image)  # telephones note how they were held
                    like_the_others = upright.convert("L" if channels == 1 else "RGB").resize((width, height))
            except OSError as error:
                advice = "save it as PNG or JPEG, or take it out of the folder"
                raise ValueError(f"{path} is not an image that can be read: {advice} ({error})") from error
            pixels.append(np.asarray(like_the_others, np.float32).reshape(height, width, channels) / 255)
            labels.append(label)
    if len(pixels) < 2:
        raise ValueError(f"{folder}: must hold at least 2 images, one to train on and one to score")
    return torch.from_numpy(np.stack(pixels)).movedim(-1, 1).contiguous(), torch.tensor(labels)
