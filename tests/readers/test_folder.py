"""Somebody's own images: every way a file holds grey and paper, what computers leave there, and what is not opened."""

import os
import re
import shutil
import socket
import struct
import zlib

import numpy as np
import pytest
import torch
from bounded import bounded
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

import gmfl_lite as gl
from gmfl_lite.data import load_images

EXAMPLES = int(os.environ.get("GMFL_LITE_FUZZ", "100"))
"""Files that the fuzzer makes."""
STROKE = [(20, 10), (44, 10), (28, 54)]
COLOURED = gl.Dataset("coloured", torch.zeros(2, 3, 8, 8), torch.tensor([0, 1]), ("3", "7"))


def ink(mode="L", paper=255, colour=0):
    """Draw a seven of six pixels' breadth, dark on light."""
    image = Image.new(mode, (64, 64), paper)
    ImageDraw.Draw(image).line(STROKE, fill=colour, width=6)
    return image


def share(low, high, kind):
    """Return the seven as an array in which paper is `high` and ink `low`."""
    return np.where(np.asarray(ink()) > 0, high, low).astype(kind)


def palette(transparency=None):
    """Draw with entry 1, black, on entry 0: white, or black that is seen through."""
    image = Image.new("P", (64, 64), 0)
    image.putpalette([255, 255, 255, 0, 0, 0] if transparency is None else [0] * 6)
    ImageDraw.Draw(image).line(STROKE, fill=1, width=6)
    if transparency is not None:
        image.info["transparency"] = transparency
    return image


def png(chunks):
    """Write a PNG by hand: what Pillow does not write."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)


def grey16_png(transparent=None, values=None):
    values = share(9000, 60000, ">u2") if values is None else values.astype(">u2")
    header = struct.pack(">IIBBBBB", *values.shape[::-1], 16, 0, 0, 0, 0)
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    key = [] if transparent is None else [(b"tRNS", struct.pack(">H", transparent))]
    return png([(b"IHDR", header), *key, (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])


def deep_png(kind, channels):
    """Write 16 bits a channel: the seven in all of them, and an opaque alpha if there is one."""
    values = np.repeat(share(9000, 60000, ">u2")[..., None], channels, -1)
    if kind in (4, 6):
        values[..., -1] = 65535
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    header = struct.pack(">IIBBBBB", *values.shape[1::-1], 16, kind, 0, 0, 0)
    return png([(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")])


def sprite(path):
    """Save a GIF whose first frame is ink on nothing, and whose second fills the canvas."""
    palette(0).save(path, save_all=True, append_images=[Image.new("L", (64, 64), 77)], transparency=0, disposal=2)


def half_seen():
    """Draw black ink of alpha 128 on nothing: a middle grey on paper."""
    return ink("RGBA", (0, 0, 0, 0), (0, 0, 0, 128))


def animation(path):
    ink().save(path, save_all=True, append_images=[Image.new("L", (64, 64), 77)], duration=50)


FILES = {
    # name: (ending, image or how to write it, the grey of ink, the grey of paper)
    "L": ("png", ink(), 0, 1),
    "RGB as JPEG": ("JPG", ink("RGB", "white", "black"), 0, 1),
    "one bit": ("png", ink("1", 1, 0), 0, 1),
    "one bit as TIFF": ("tif", ink("1", 1, 0), 0, 1),
    "palette": ("png", palette(), 0, 1),
    "RGBA, nothing behind": ("png", ink("RGBA", (0, 0, 0, 0), (0, 0, 0, 255)), 0, 1),
    "RGBA, half seen through": ("png", half_seen(), 1 - 128 / 255, 1),
    "RGBA, opaque": ("png", ink("RGBA", (255, 255, 255, 255), (0, 0, 0, 255)), 0, 1),
    "RGBA as WebP": ("webp", ink("RGBA", (0, 0, 0, 0), (0, 0, 0, 255)), 0, 1),
    "RGBA as TIFF": ("tiff", ink("RGBA", (0, 0, 0, 0), (0, 0, 0, 255)), 0, 1),
    "LA": ("png", ink("LA", (0, 0), (0, 255)), 0, 1),
    "palette, one entry seen through": ("png", palette(0), 0, 1),
    "palette, alphas": ("png", palette(bytes([0, 255])), 0, 1),
    "palette as GIF, seen through": ("gif", palette(0), 0, 1),
    "L, one grey seen through": ("png", lambda path: ink("L", 10, 0).save(path, transparency=10), 0, 1),
    "RGB, one colour seen through": ("png", lambda p: ink("RGB", (1, 2, 3), 0).save(p, transparency=(1, 2, 3)), 0, 1),
    "CMYK": ("jpg", ink("CMYK", (0, 0, 0, 0), (0, 0, 0, 255)), 0, 1),
    "CMYK as TIFF": ("tif", ink("CMYK", (0, 0, 0, 0), (0, 0, 0, 255)), 0, 1),
    "YCbCr": ("jpg", ink("YCbCr", (255, 128, 128), (0, 128, 128)), 0, 1),
    "16 bits": ("png", grey16_png(), 9000 / 65535, 60000 / 65535),
    "16 bits as TIFF": ("tif", Image.fromarray(share(9000, 60000, np.uint16)), 9000 / 65535, 60000 / 65535),
    "16 bits, big-endian TIFF": ("tif", Image.fromarray(share(9000, 60000, ">u2")), 9000 / 65535, 60000 / 65535),
    "16 bits, paper seen through": ("png", grey16_png(transparent=60000), 9000 / 65535, 1),
    "16 bits that hold 8": ("png", grey16_png(values=share(51, 204, np.uint16)), 0.2, 0.8),
    "a mask in 16 bits": ("png", grey16_png(values=share(0, 1, np.uint16)), 0, 1),
    "32 bits": ("tif", Image.fromarray(share(-(10**6), 10**6, np.int32)), 0, 1),
    "32 bits, large": ("tif", Image.fromarray(share(10**6, 10**9, np.int32)), 0, 1),
    "32 bits that hold 16": ("tif", Image.fromarray(share(13107, 52428, np.int32)), 0.2, 0.8),
    "real, 0 to 1": ("tif", Image.fromarray(share(0.25, 0.75, np.float32)), 0.25, 0.75),
    "real, 0 to 255": ("tif", Image.fromarray(share(51, 204, np.float32)), 0.2, 0.8),
    "real, around 0": ("tif", Image.fromarray(share(-0.3, 0.2, np.float32)), 0, 1),
    "16 bits in three colours": ("png", deep_png(2, 3), 9000 / 65535, 60000 / 65535),
    "16 bits and alpha": ("png", deep_png(4, 2), 9000 / 65535, 60000 / 65535),
    "a GIF that moves": ("gif", animation, 0, 1),
    "a PNG that moves": ("png", animation, 0, 1),
    "a WebP that moves": ("webp", animation, 0, 1),
    "a TIFF of two pages": ("tif", animation, 0, 1),
    "a GIF on nothing": ("gif", sprite, 0, 1),
}  # fmt: skip


def write(path, what):
    if isinstance(what, bytes):
        path.write_bytes(what)
    elif callable(what):
        what(path)
    else:
        what.save(path)


def folder_of(tmp_path, ending, what):
    """Return a folder of two images: the one in question as a 3, and a plain one as a 7."""
    for name in "37":
        (tmp_path / "mine" / name).mkdir(parents=True)
    write(tmp_path / "mine" / "3" / f"A b ü.{ending}", what)
    write(tmp_path / "mine" / "7" / "plain.png", ink())
    return tmp_path / "mine"


@pytest.fixture
def mine(tmp_path):
    return folder_of(tmp_path, "png", ink())


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("coloured", [False, True])
def test_ink_is_ink_and_paper_is_paper_however_a_file_holds_them(name, coloured, digits, tmp_path):
    """Held against real numbers: the same stroke between 0 and 1, made small, between the greys of ink and paper."""
    ending, what, black, white = FILES[name]
    read = load_images(folder_of(tmp_path, ending, what), like=COLOURED if coloured else digits).x[0]
    assert read.shape == (3 if coloured else 1, 8, 8)
    assert read.dtype == torch.float32
    assert 0 <= read.min() <= read.max() <= 1
    stroke = np.asarray(Image.fromarray(share(0, 1, np.float32)).resize((8, 8)))
    expected = np.clip(black + (white - black) * stroke, 0, 1)
    np.testing.assert_allclose(read, np.broadcast_to(expected, read.shape), atol=0.03)  # JPEG spreads the stroke


@pytest.mark.parametrize("tag", [2, 3, 4, 5, 6, 7, 8])
@pytest.mark.parametrize(("ending", "image"), [("jpg", ink()), ("png", ink("RGBA", (0, 0, 0, 0), (0, 0, 0, 255)))])
def test_images_are_upright_whatever_their_kind(tag, ending, image, digits, tmp_path):
    back = {
        2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180, 4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE, 6: Image.Transpose.ROTATE_90, 7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }  # fmt: skip
    exif = Image.Exif()
    exif[0x0112] = tag
    read = load_images(
        folder_of(tmp_path, ending, lambda p: image.transpose(back[tag]).save(p, exif=exif)), like=digits
    )
    np.testing.assert_allclose(read.x[0], read.x[1], atol=0.03)


def test_numbers_that_are_no_greys_are_refused(digits, tmp_path):
    values = share(0, 1, np.float32)
    values[0, 0] = np.nan
    folder = folder_of(tmp_path, "tif", Image.fromarray(values))
    with pytest.raises(ValueError, match=r"A b ü\.tif is not an image that can be read: .*NaN or infinite"):
        load_images(folder, like=digits)


@pytest.mark.parametrize(
    ("ending", "what"),
    [
        ("png", Image.new("L", (9, 9), 255)),
        ("png", Image.new("RGB", (9, 9), (10, 200, 30))),
        ("png", Image.new("1", (9, 9), 1)),
        ("png", ink("RGBA", (0, 0, 0, 0), (255, 255, 255, 255))),  # white ink on nothing
        ("png", Image.new("RGBA", (9, 9), (200, 0, 0, 0))),
        ("png", grey16_png(values=np.full((9, 9), 40000))),
        ("tif", Image.fromarray(np.full((9, 9), -3.5, np.float32))),
        ("png", Image.new("L", (1, 1), 7)),
        ("gif", lambda path: Image.new("L", (9, 9), 7).save(path, save_all=True, append_images=[ink().resize((9, 9))])),
    ],
)  # fmt: skip
@pytest.mark.parametrize("coloured", [False, True])
def test_a_flat_image_is_refused_by_name(ending, what, coloured, digits, tmp_path):
    folder = folder_of(tmp_path, ending, what)
    with pytest.raises(ValueError, match=rf"A b ü\.{ending} is one flat colour"):
        load_images(folder, like=COLOURED if coloured else digits)


def test_one_pixel_is_not_a_flat_image_where_images_have_one(mine):
    dots = gl.Dataset("dots", torch.zeros(2, 1, 1, 1), torch.tensor([0, 1]), ("3", "7"))
    assert load_images(mine, like=dots).x.shape == (2, 1, 1, 1)


@pytest.mark.parametrize("shape", [(64,), (3, 8), (2, 8, 8), (4, 8, 8)])
def test_only_grey_and_three_colours_can_be_imitated(shape, mine):
    with pytest.raises(ValueError, match="like: must hold images .* got samples of " + "×".join(map(str, shape))):
        load_images(mine, like=gl.Dataset("other", torch.zeros(2, *shape), torch.tensor([0, 1]), ("3", "7")))


@pytest.mark.parametrize("inside", ["", "3"])
@pytest.mark.parametrize(
    "name", [".ipynb_checkpoints", "__MACOSX", ".git", ".Trash-1000", ".AppleDouble", "@", "#recycle"]
)  # fmt: skip
def test_hidden_folders_are_skipped_and_others_are_not(name, inside, mine, digits):
    (mine / inside / name).mkdir()
    if name not in ("@", "#recycle"):
        assert load_images(mine, like=digits).y.tolist() == [3, 7]
        return
    message = rf"{name} is a folder: put its images into" if inside else f"{name} must be among the classes"
    with pytest.raises(ValueError, match=message):
        load_images(mine, like=digits)


@pytest.mark.parametrize("name", [".DS_Store", "._A b ü.png", "Thumbs.db", "thumbs.db", "Desktop.ini", "Icon\r"])
def test_what_computers_leave_is_skipped(name, mine, digits):
    try:
        (mine / "3" / name).write_bytes(b"clutter")
    except OSError:
        pytest.skip("no name for a file on this system")
    (mine / "readme.txt").write_text("beside the folders of the classes")
    assert load_images(mine, like=digits).y.tolist() == [3, 7]


def test_a_class_is_found_however_a_mac_spells_it(tmp_path):
    """ä as one sign, and as an a with dots: the same word, as files from a Mac are called."""
    for name in ("Ka\u0308se", "Brot"):
        (tmp_path / name).mkdir()
        ink().save(tmp_path / name / "a.png")
    like = gl.Dataset("breakfast", torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]), ("K\u00e4se", "Brot"))
    assert load_images(tmp_path, like=like).y.tolist() == [0, 1]


def test_two_folders_that_a_screen_shows_alike_are_refused(tmp_path):
    like = gl.Dataset("breakfast", torch.zeros(2, 1, 8, 8), torch.tensor([0, 1]), ("K\u00e4se", "Brot"))
    for name in ("Ka\u0308se", "K\u00e4se"):
        try:
            (tmp_path / name).mkdir()
        except FileExistsError:
            pytest.skip("to this system they are one folder")
        ink().save(tmp_path / name / "a.png")
    with pytest.raises(ValueError, match="must hold one folder Käse, not two"):
        load_images(tmp_path, like=like)


@pytest.mark.parametrize(
    "exif", [b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"nonsense", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"]
)
def test_damaged_notes_on_how_a_telephone_was_held_do_not_matter(exif, digits, tmp_path):
    folder = folder_of(tmp_path, "jpg", lambda path: ink().save(path, exif=exif))
    read = load_images(folder, like=digits)
    np.testing.assert_allclose(read.x[0], read.x[1], atol=0.03)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=EXAMPLES, deadline=None)
@given(data=st.data())
def test_any_bytes_in_a_folder_are_an_image_or_refused_by_name(data, digits, tmp_path_factory):
    """Structure is kept: a file that is right but for a few bytes."""
    root = tmp_path_factory.mktemp("fuzzed", numbered=True)
    name = data.draw(st.sampled_from(sorted(FILES)))
    ending, what, *_ = FILES[name]
    folder = folder_of(root, ending, what)
    path = folder / "3" / f"A b ü.{ending}"
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = min(data.draw(st.integers(0, 200) | st.integers(0, len(content))), len(content) - 1)
        if data.draw(st.booleans()):
            content[place] = data.draw(st.integers(0, 255) | st.sampled_from([0, 1, 127, 128, 255]))
        elif data.draw(st.booleans()):
            del content[place : place + data.draw(st.integers(1, 64))]
        else:
            content[place:place] = data.draw(st.binary(max_size=32))
        content = content or bytearray(b"\0")
    path.write_bytes(content)
    try:
        with bounded():
            read = load_images(folder, like=digits).x
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        assert read.shape == (2, 1, 8, 8)
        assert 0 <= read.min() <= read.max() <= 1
    shutil.rmtree(root)


def bytes_of(tmp_path, ending, image):
    image.save(tmp_path / f"whole.{ending}")
    return (tmp_path / f"whole.{ending}").read_bytes()


SPOILED = {
    "half a PNG": ("png", lambda p: bytes_of(p, "png", ink())[:150]),
    "half a JPEG": ("jpg", lambda p: bytes_of(p, "jpg", ink())[:500]),
    "half a GIF": ("gif", lambda p: bytes_of(p, "gif", ink())[:60]),
    "half a WebP": ("webp", lambda p: bytes_of(p, "webp", ink())[:60]),
    "a TIFF's head": ("tif", lambda p: bytes_of(p, "tif", ink())[:100]),
    "a wrong checksum": ("png", lambda p: bytes_of(p, "png", ink()).replace(b"IDAT", b"IDAU")),
    "no pixels": ("png", lambda p: png([(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)), (b"IEND", b"")])),
    "endless text": ("png", lambda p: png([
        (b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)), (b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 23))),
        (b"IDAT", zlib.compress(bytes(72))), (b"IEND", b""),
    ])),
    "nothing": ("png", lambda p: b""),
    "notes": ("txt", lambda p: b"mine"),
    "a page": ("png", lambda p: b"<!doctype html><title>404</title>"),
    "LAB": ("tif", lambda p: bytes_of(p, "tif", Image.new("LAB", (8, 8), 5))),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("name", SPOILED)
def test_whatever_a_decoder_says_names_the_file(name, digits, tmp_path):
    ending, what = SPOILED[name]
    folder = folder_of(tmp_path, ending, what(tmp_path))
    file = re.escape(str(folder / "3" / f"A b ü.{ending}"))
    with pytest.raises(ValueError, match=f"{file} is not an image that can be read: save it as PNG or JPEG.* \\(.+\\)"):
        load_images(folder, like=digits)


@pytest.mark.parametrize(
    "error", [MemoryError(), KeyError("x"), SyntaxError("bad"), RuntimeError("decoder"), EOFError()]
)
def test_an_error_of_any_kind_in_a_decoder_names_the_file(error, mine, digits, monkeypatch):
    def fail(*anything, **options):
        raise error

    monkeypatch.setattr("PIL.ImageOps.exif_transpose", fail)
    with pytest.raises(ValueError, match=r"A b ü\.png is not an image that can be read: .* \(.+\)") as raised:
        load_images(mine, like=digits)
    assert raised.value.__cause__ is error


def test_ctrl_c_is_not_an_unreadable_image(mine, digits, monkeypatch):
    def interrupt(*anything):
        raise KeyboardInterrupt

    monkeypatch.setattr("PIL.ImageOps.exif_transpose", interrupt)
    with pytest.raises(KeyboardInterrupt):
        load_images(mine, like=digits)


@pytest.mark.parametrize("side", [3_100, 10_000, 14_000, 60_000])  # beyond 9 MP, Pillow's warning and error, any memory
@pytest.mark.parametrize("kind", ["png", "gif", "bmp"])
def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(side, kind, digits, tmp_path, monkeypatch):
    """A file of some bytes that claims to be huge."""
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    frame = b"," + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x02\x02\x4c\x01\x00;"
    bitmap = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 24, *[0] * 6)
    heads = {
        "png": png([(b"IHDR", header), (b"IDAT", zlib.compress(bytes(99)))]),
        "gif": b"GIF89a" + struct.pack("<HHBBB", side, side, 0, 0, 0) + frame,
        "bmp": b"BM" + struct.pack("<IHHI", 99, 0, 0, 54) + bitmap,
    }
    folder = folder_of(tmp_path, kind, heads[kind])
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", lambda image: pytest.fail("decoded"))
    with pytest.raises(ValueError, match=rf"A b ü\.{kind} is too large: make it smaller.*pixels"):
        load_images(folder, like=digits)


@pytest.mark.parametrize("mode", ["RGBA", "P", "LA", "CMYK", "I;16", "F", "1"])
def test_the_largest_image_that_is_read_stays_within_the_bound(mode, digits, tmp_path):
    """Turned by its camera, and in part transparent where a file can be."""
    kind = {"CMYK": "tiff", "I;16": "png", "F": "tiff", "P": "gif"}.get(mode, "png")
    image = Image.new(mode, (2990, 3000))
    seven = ink(colour=90 if mode == "P" else 0)  # colour 0 of a palette is the one that is transparent
    if mode == "P":  # older Pillows give it no colours
        image.putpalette(seven.convert("P").getpalette())
    image.paste(
        seven.convert("L" if mode in ("F", "I;16") else mode).resize((1500, 1500)).convert(image.mode), (700, 700)
    )
    exif = Image.Exif()
    exif[0x0112] = 6
    folder = folder_of(tmp_path, kind, b"")
    more = {"transparency": 0} if mode == "P" else {}
    image.save(next((folder / "3").iterdir()), **({} if kind == "gif" else {"exif": exif}), **more)
    del image
    with bounded():
        load_images(folder, like=digits)


@pytest.mark.parametrize(("side", "progressive"), [(5_400, False), (5_400, True)])
def test_a_large_photograph_is_decoded_smaller(side, progressive, digits, tmp_path):
    folder, small = folder_of(tmp_path, "jpeg", b""), ink().convert("RGB")
    path = next((folder / "3").iterdir())
    small.resize((side, side)).save(path, quality=80, progressive=progressive)
    with bounded():
        read = load_images(folder, like=digits).x
    small.resize((1_000, 1_000)).save(path, quality=95)
    assert (read - load_images(folder, like=digits).x).abs().max() < 0.02
    small.resize((5_500, 5_500)).save(path, progressive=progressive)
    with pytest.raises(ValueError, match="is too large: make it smaller"):
        load_images(folder, like=digits)


def test_a_large_photograph_with_a_preview_in_its_file_is_read(digits, tmp_path):
    folder, small = folder_of(tmp_path, "jpeg", b""), ink().convert("RGB")
    path = next((folder / "3").iterdir())
    small.resize((4_000, 3_000)).save(path, format="MPO", save_all=True, append_images=[small.resize((160, 120))])
    with Image.open(path) as image:
        assert (image.format, image.n_frames) == ("MPO", 2)
    assert len(load_images(folder, like=digits).x) == 2


def test_an_icon_is_refused_before_what_lies_in_it_is_decoded(digits, tmp_path):
    """It says 16×16; in it is a PNG of 64 million pixels, which Pillow would decode to see how large it is."""
    rows = zlib.compress(bytes(8_001 * 8_000), 1)
    whole = png([(b"IHDR", struct.pack(">IIBBBBB", 8_000, 8_000, 8, 0, 0, 0, 0)), (b"IDAT", rows), (b"IEND", b"")])
    head = struct.pack("<HHHBBBBHHII", 0, 1, 1, 16, 16, 0, 0, 1, 32, len(whole), 22)
    folder = folder_of(tmp_path, "ico", head + whole)
    with pytest.raises(ValueError, match=r"A b ü\.ico is not an image that can be read: save it as PNG"), bounded():
        load_images(folder, like=digits)


def test_a_file_of_too_many_bytes_is_refused_before_it_is_read(mine, digits):
    os.truncate(mine / "3" / "A b ü.png", 200_000_001)
    with pytest.raises(ValueError, match=r"A b ü\.png is too large: make it smaller"), bounded(most=10e6):
        load_images(mine, like=digits)


@pytest.mark.parametrize("length", [2**28, 2**32 - 1])
def test_a_length_that_a_file_claims_costs_no_memory(length, digits, tmp_path):
    """All of the pixels are there, so that the image is read."""
    whole = bytes_of(tmp_path, "png", ink())
    place = whole.index(b"IDAT")
    folder = folder_of(tmp_path, "png", whole[: place - 4] + struct.pack(">I", length) + whole[place:])
    with bounded(most=10e6):
        read = load_images(folder, like=digits).x
    assert torch.equal(read[0], read[1])


def test_a_program_for_a_printer_is_not_run(digits, tmp_path, monkeypatch):
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *anything, **options: pytest.fail("run"))
    folder = folder_of(tmp_path, "eps", lambda path: ink().save(path))
    with pytest.raises(ValueError, match=r"A b ü\.eps is PostScript"):
        load_images(folder, like=digits)


posix = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no pipes among its files")


@posix
@pytest.mark.parametrize("kind", ["pipe", "socket", "device"])
def test_what_is_no_file_is_not_opened(kind, mine, digits, monkeypatch):
    """Opening a pipe would wait for ever for its other end."""
    path = mine / "3" / "0.png"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        monkeypatch.chdir(path.parent)  # a socket's address is at most about 100 letters long
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("0.png")
    else:
        try:
            os.mknod(path, 0o020666, os.makedev(1, 5))  # zeros without end
        except OSError:
            pytest.skip("only an administrator makes devices")
    monkeypatch.setattr("PIL.Image.open", lambda path: pytest.fail("opened"))
    with pytest.raises(ValueError, match=r"0\.png is not a file but a pipe, a socket or a device"):
        load_images(mine, like=digits)


def link(path, target):
    try:
        path.symlink_to(target)
    except OSError:
        pytest.skip("this system lets nobody make links")


@pytest.mark.parametrize("target", ["../../else.png", "/dev/zero", "../../gone.png", "../../mine-too/a.png"])
def test_a_link_out_of_the_folder_is_refused(target, mine, digits):
    ink().save(mine.parent / "else.png")
    (mine.parent / "mine-too").mkdir()
    ink().save(mine.parent / "mine-too" / "a.png")
    link(mine / "3" / "linked.png", target)
    with pytest.raises(ValueError, match=r"linked\.png is reached by a link that leads out of .*mine: put a copy"):
        load_images(mine, like=digits)


def test_a_class_that_is_a_link_out_of_the_folder_is_refused(mine, digits):
    (mine.parent / "elsewhere").mkdir()
    ink().save(mine.parent / "elsewhere" / "a.png")
    link(mine / "4", mine.parent / "elsewhere")
    with pytest.raises(ValueError, match=r"4.a\.png is reached by a link that leads out of"):
        load_images(mine, like=digits)


def test_links_within_the_folder_and_to_it_are_followed(mine, digits):
    link(mine / "3" / "again.png", "../7/plain.png")
    link(mine.parent / "short", mine)
    assert load_images(mine.parent / "short", like=digits).y.tolist() == [3, 3, 7]


@pytest.mark.parametrize("target", ["loop.png", "missing.png"])
def test_a_link_to_nowhere_is_an_unreadable_image(target, mine, digits):
    link(mine / "3" / "loop.png", target)
    with pytest.raises(ValueError, match=r"loop\.png is not an image that can be read"):
        load_images(mine, like=digits)
