"""Somebody's own images, from a folder."""

import io
import math
import os
import stat
import warnings
from pathlib import Path
from typing import TYPE_CHECKING
from unicodedata import normalize

import numpy as np
import torch
from numpy.typing import NDArray

from ..basics import checks

if TYPE_CHECKING:
    from PIL.Image import Image

CLUTTER = ("thumbs.db", "desktop.ini", "__macosx", "icon\r")
"""What Windows and Macs leave in folders of images, in small letters; other clutter begins with a dot."""

MOST_BYTES, MOST_PIXELS, MOST_OF_A_JPEG = 200_000_000, 9_000_000, 30_000_000
"""What a file may hold, of bytes and of pixels, and a JPEG of pixels."""
_DECODED_TOO_EARLY = ("ICNS", "ICO")
"""Icons: what lies in them is decoded before anybody can ask how large it is."""

_TOO_LARGE = "is too large: make it smaller, or take it out of the folder"

WHITES = (1, 255, 65535)
"""What white may be where an image holds wide or real numbers: a mask's or a real number's, 8 bits', 16 bits'."""


def images_in(folder: Path, classes: tuple[str, ...], shape: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images [N, C, H, W] and labels, from a folder with a folder for each class; it raises as `load_images`.

    What is hidden is skipped. A link is followed within the folder alone: what is trained on is what lies there.
    """
    if not folder.is_dir():
        raise ValueError(f"images = {str(folder)!r}: must be a folder with a folder of images for every class")
    if len(shape) != 3 or shape[0] not in (1, 3):
        size = "×".join(map(str, shape))
        raise ValueError(f"like: must hold images [N, C, H, W] in grey or in three colours, got samples of {size}")
    of_class: dict[str, Path] = {}
    for path in _listed(folder):
        name = normalize("NFC", path.name)  # as Macs spell it, too
        if path.is_dir() and of_class.setdefault(name, path) != path:
            raise ValueError(f"{folder}: must hold one folder {name}, not two that are only spelled otherwise")
    names = [normalize("NFC", name) for name in classes]
    unknown = sorted(of_class.keys() - set(names))
    if unknown:
        raise ValueError(f"{folder}: {checks.few(unknown)} must be among the classes, {checks.few(classes, 12)}")
    pixels, labels = [], []
    for label, name in enumerate(names):
        for path in _listed(of_class[name]) if name in of_class else ():
            pixels.append(_read(path, folder, shape))
            labels.append(label)
    if len(pixels) < 2:
        raise ValueError(f"{folder}: must hold at least 2 images, one to train on and one to score")
    return torch.from_numpy(np.stack(pixels)).movedim(-1, 1).contiguous(), torch.tensor(labels)


def _listed(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name[0] != "." and path.name.lower() not in CLUTTER)


def _read(path: Path, folder: Path, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return the pixels [H, W, C] of one image; whatever is wrong with it is an error that names it."""
    from PIL import Image, UnidentifiedImageError  # as late as torchvision

    advice = "save it as PNG or JPEG, or take it out of the folder"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # such as of a telephone's notes that are damaged
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            pixels = _pixels(_upright(_content(path, folder)), shape)
    except _RefusedError as refused:
        raise ValueError(f"{path} {refused}") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{path} {_TOO_LARGE} ({error})") from error
    except Exception as error:  # decoders fail with errors of every kind
        unknown = isinstance(error, UnidentifiedImageError)  # names an object in memory
        reason = "of no kind that Pillow knows" if unknown else str(error) or type(error).__name__
        raise ValueError(f"{path} is not an image that can be read: {advice} ({reason})") from error
    if pixels[..., 0].size > 1 and np.ptp(pixels, axis=(0, 1)).max() <= 1 / 255:
        raise ValueError(
            f"{path} is one flat colour, on white paper and in the size {shape[2]}×{shape[1]}: take it out"
        )
    return pixels


class _RefusedError(Exception):
    """What a path is, where it is not opened as an image."""


def _content(path: Path, folder: Path) -> io.BytesIO:
    """Return a file's bytes; raise where opening it would wait, read a device, or read what lies elsewhere.

    From an open file, decoders would ask for as many bytes as a damaged length in it says, and get the memory for them.
    """
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise _RefusedError(f"is reached by a link that leads out of {folder}: put a copy of the image there")
    kind = path.stat().st_mode
    if stat.S_ISDIR(kind):
        raise _RefusedError(f"is a folder: put its images into {path.parent}, or take it out")
    if not stat.S_ISREG(kind):
        raise _RefusedError("is not a file but a pipe, a socket or a device: take it out of the folder")
    if path.stat().st_size > MOST_BYTES:
        raise _RefusedError(f"{_TOO_LARGE} (more than {MOST_BYTES} bytes)")
    return io.BytesIO(path.read_bytes())


def _upright(content: io.BytesIO) -> "Image":
    """Return an image as it was held, of what moves the first picture; the file and what lay in it are let go."""
    from PIL import Image, ImageOps

    Image.init()
    with Image.open(content, formats=[name for name in Image.ID if name not in _DECODED_TOO_EARLY]) as image:
        if image.format == "EPS":
            raise _RefusedError("is PostScript, a program that is not run here: save it as PNG or JPEG")
        _check_size(image)
        return ImageOps.exif_transpose(image)  # telephones note how they were held


def _pixels(upright: "Image", shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return [H, W, C] in [0, 1]."""
    from PIL import Image

    channels, height, width = shape
    if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
        grey = Image.fromarray(_scaled(upright)).resize((width, height))
        return np.repeat(np.asarray(grey, np.float32).clip(0, 1)[..., None], channels, axis=-1)
    like_the_others = _on_paper(upright).convert("L" if channels == 1 else "RGB").resize((width, height))
    return np.asarray(like_the_others, np.float32).reshape(height, width, channels) / np.float32(255)


def _check_size(image: "Image") -> None:
    """Raise where decoding would take more memory than a photograph is worth: some 20 bytes for each pixel.

    Of a large JPEG every second pixel is decoded; libjpeg may keep six bytes for each pixel of the whole all the same.
    """
    width, height = image.size
    if image.format in ("JPEG", "MPO") and MOST_PIXELS < width * height <= MOST_OF_A_JPEG:
        image.draft(None, (width // 2, height // 2))  # in whatever mode
    if math.prod(image.size) > MOST_PIXELS:
        raise _RefusedError(f"{_TOO_LARGE} (more than {MOST_PIXELS} pixels)")


def _on_paper(image: "Image") -> "Image":
    """Lay what is transparent, wholly or in part, on white."""
    from PIL import Image

    if image.mode not in ("LA", "La", "PA", "RGBA", "RGBa") and "transparency" not in image.info:
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))


def _scaled(image: "Image") -> NDArray[np.float32]:
    """Return grey [H, W] in [0, 1] from wide or real numbers, which Pillow's own conversion cuts off at 255.

    White is the first of `WHITES` that no pixel exceeds. Where there is none, or a pixel is negative, the darkest
    pixel becomes black and the lightest white.
    """
    values = np.array(image, np.float32)  # its own, changed in place: it may be large
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("it holds NaN or infinite values")
    seen_through = image.info.get("transparency")
    paper = values == seen_through if isinstance(seen_through, int) else None
    whites = [white for white in WHITES if low >= 0 and high <= white]
    if not whites:
        values -= np.float32(low)
    values /= whites[0] if whites else max(np.float32(high) - np.float32(low), np.finfo(np.float32).tiny)
    if paper is not None:
        values[paper] = 1
    return values
