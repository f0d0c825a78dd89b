"""Pictures: what each mode becomes, what is refused, and that nothing is resized in silence."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
import torch
from diffusers.image_processor import VaeImageProcessor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dit_lens.errors import BadInput
from dit_lens.model import pictures
from dit_lens.model.pictures import read_picture, to_image

pytestmark = pytest.mark.pure

SIZE = (6, 8)
"""Height and width of the pictures below; unequal, so that a swap shows."""


def some_pixels(height=6, width=8, channels=3) -> np.ndarray:
    shape = (height, width, channels) if channels else (height, width)
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def values(picture: torch.Tensor) -> np.ndarray:
    """Back to [H, W, 3] in 0…255."""
    return ((picture + 1) * 127.5).permute(1, 2, 0).numpy()


def written(folder, image: Image.Image, name="picture.png", **more):
    image.save(folder / name, **more)
    return folder / name


# ------------------------------------------------------------------ what is read


def test_rgb_is_what_diffusers_makes_of_it(tmp_path):
    image = Image.fromarray(some_pixels())
    expected = VaeImageProcessor(vae_scale_factor=1).preprocess(image)[0]
    for picture in (image, written(tmp_path, image), str(written(tmp_path, image)), some_pixels()):
        read = read_picture(picture, SIZE)
        assert read.shape == (3, 6, 8)
        assert read.dtype == torch.float32
        assert torch.equal(read, expected)


def test_every_value_comes_back_from_a_picture_shown():
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, axis=2)
    read = read_picture(ramp, (16, 16))
    assert (read.min(), read.max()) == (-1, 1)
    assert np.array_equal(np.asarray(to_image(read)), ramp)


def test_a_lens_asks_for_its_default_size(tiny_sd3_lens):
    assert read_picture(np.zeros((16, 16, 3), dtype=np.uint8), tiny_sd3_lens).shape == (3, 16, 16)
    with pytest.raises(BadInput, match="16 × 16 are needed"):
        read_picture(some_pixels(), tiny_sd3_lens)


@pytest.mark.parametrize("mode", ["L", "1", "P", "YCbCr"])
def test_modes_that_lose_nothing_become_rgb(mode):
    image = Image.fromarray(some_pixels()).convert(mode)
    assert np.array_equal(np.asarray(to_image(read_picture(image, SIZE))), np.asarray(image.convert("RGB")))


def test_sixteen_bit_grey_keeps_its_precision(tmp_path):
    grey = np.linspace(0, 65535, 48).astype(np.uint16).reshape(6, 8)
    expected = torch.from_numpy(grey.astype(np.float32) / 65535 * 2 - 1).expand(3, -1, -1)
    for picture in (grey, written(tmp_path, Image.fromarray(grey)), Image.fromarray(grey)):
        torch.testing.assert_close(read_picture(picture, SIZE), expected)


def test_floats_are_taken_as_they_are():
    pixels = some_pixels().astype(np.float64) / 255
    torch.testing.assert_close(read_picture(pixels, SIZE), read_picture(some_pixels(), SIZE))
    assert torch.equal(
        read_picture(pixels[..., 0], SIZE), read_picture(np.repeat(pixels[..., :1], 3, axis=2), SIZE)
    )


def test_a_cameras_orientation_is_followed(tmp_path):
    image = Image.fromarray(some_pixels(8, 6))
    exif = image.getexif()
    exif[0x0112] = 6
    turned = written(tmp_path, image, exif=exif)
    expected = np.rot90(some_pixels(8, 6), k=-1)
    assert np.array_equal(np.asarray(to_image(read_picture(turned, SIZE))), expected)
    with pytest.raises(BadInput, match="is 6 × 8 pixels"):
        read_picture(turned, (8, 6))


def test_of_a_camera_jpeg_with_several_pictures_the_first_is_taken(tmp_path):
    first, second = Image.new("RGB", (8, 6), (200, 60, 30)), Image.new("RGB", (8, 6))
    file = written(tmp_path, first, "picture.mpo", save_all=True, append_images=[second], quality=95)
    file = file.rename(tmp_path / "picture.jpg")
    np.testing.assert_allclose(values(read_picture(file, SIZE)), np.full((6, 8, 3), (200, 60, 30)), atol=4)


# ------------------------------------------------------------------ transparency


def half_transparent(mode="RGBA") -> Image.Image:
    alpha = np.full((6, 8, 1), 255, dtype=np.uint8)
    alpha[:3] = 51
    image = Image.fromarray(np.concatenate([some_pixels(), alpha], axis=2))
    return image if mode == "RGBA" else image.convert(mode)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_refused_without_a_background(mode):
    with pytest.raises(BadInput, match=r"transparent in 50.0% of its pixels.*background='white'"):
        read_picture(half_transparent(mode), SIZE)


@pytest.mark.parametrize(
    ("background", "rgb"),
    [("white", (255, 255, 255)), ("#336699", (51, 102, 153)), ((10, 20.5, 30), (10, 20.5, 30))],
)
def test_a_background_shows_through(background, rgb):
    expected = some_pixels().astype(np.float64)
    expected[:3] = 0.2 * expected[:3] + 0.8 * np.asarray(rgb)
    for picture in (half_transparent(), np.asarray(half_transparent())):
        read = read_picture(picture, SIZE, background=background)
        np.testing.assert_allclose(values(read), expected, atol=1e-3)


def test_a_transparent_palette_entry_counts(tmp_path):
    image = Image.fromarray(some_pixels()).convert("P")
    file = written(tmp_path, image, transparency=int(np.asarray(image)[0, 0]))
    with pytest.raises(BadInput, match="is transparent in"):
        read_picture(file, SIZE)
    found = read_picture(file, SIZE, background="black")
    assert (found[:, 0, 0] == -1).all()


def test_an_alpha_channel_that_hides_nothing_is_left_out():
    opaque = np.concatenate([some_pixels(), np.full((6, 8, 1), 255, dtype=np.uint8)], axis=2)
    plain = read_picture(some_pixels(), SIZE)
    assert torch.equal(read_picture(Image.fromarray(opaque), SIZE), plain)
    assert torch.equal(read_picture(opaque, SIZE), plain)
    # Nor does a background change a picture that covers it.
    assert torch.equal(read_picture(some_pixels(), SIZE, background="red"), plain)


@pytest.mark.parametrize(
    ("background", "says"),
    [
        ("whyte", "Did you mean 'white'"),
        ("#12", "is no colour"),
        ("#11223344", "itself transparent"),
        ((1, 2), "red, green and blue"),
        ((1, 2, 256), "from 0 to 255"),
        ((1, 2, True), "is no colour"),
        (7, "is no colour"),
    ],
)
def test_backgrounds_that_are_no_colour_are_refused(background, says):
    with pytest.raises(BadInput, match=says):
        read_picture(some_pixels(), SIZE, background=background)


# ------------------------------------------------------------------ size


def test_another_size_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    file = written(tmp_path, Image.fromarray(some_pixels(10, 20)))
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("decoded"))
    with pytest.raises(
        BadInput, match=r"is 10 × 20 pixels \(height × width\), and 6 × 8 are needed"
    ) as error:
        read_picture(file, SIZE)
    assert "resize='crop'" in str(error.value) and "resize='exact'" in str(error.value)
    with pytest.raises(BadInput, match="is 8 × 6 pixels"):
        read_picture(some_pixels(8, 6), SIZE)


def test_a_resize_of_the_right_size_changes_nothing():
    for how in pictures.RESIZES:
        assert torch.equal(read_picture(some_pixels(), SIZE, resize=how), read_picture(some_pixels(), SIZE))


def test_resizing_is_pillows_lanczos():
    large = Image.fromarray(some_pixels(24, 40))
    read = read_picture(large, SIZE, resize="exact")
    expected = np.asarray(large.resize((8, 6), Image.Resampling.LANCZOS))
    assert np.abs(np.asarray(to_image(read)).astype(int) - expected).max() <= 1
    assert read.abs().max() <= 1


@pytest.mark.parametrize(("height", "width", "inner"), [(12, 40, (0, 12, 12, 28)), (36, 16, (12, 24, 0, 16))])
def test_cropping_takes_the_middle(height, width, inner):
    pixels = np.zeros((height, width, 3), dtype=np.uint8)
    top, bottom, left, right = inner
    pixels[top:bottom, left:right] = 200
    cropped = values(read_picture(pixels, SIZE, resize="crop"))
    stretched = values(read_picture(pixels, SIZE, resize="exact"))
    np.testing.assert_allclose(cropped, 200, atol=1e-3)
    assert stretched.min() < 100


def test_resizing_has_its_names():
    with pytest.raises(BadInput, match=r"resize='exactly' is unknown.*Did you mean 'exact'"):
        read_picture(some_pixels(), SIZE, resize="exactly")


@pytest.mark.parametrize("size", [(6,), (6, 0), (6.0, 8), (True, 8)])
def test_sizes_are_two_whole_numbers(size):
    with pytest.raises(BadInput, match=r"must be \(height, width\)"):
        read_picture(some_pixels(), size)


# ------------------------------------------------------------------ what is refused


@pytest.mark.parametrize(
    ("mode", "why"),
    [
        ("CMYK", ": inks"),
        ("LAB", "no screen"),
        ("F", "without a white"),
        ("I", "without a white"),
        ("HSV", ""),
    ],
)
def test_modes_that_need_a_choice_are_refused(mode, why):
    image = Image.new(mode, (8, 6))
    with pytest.raises(BadInput, match=rf"mode {mode}.*{why}.*Convert it yourself"):
        read_picture(image, SIZE)


def test_animations_are_refused(tmp_path):
    frames = [Image.fromarray(np.roll(some_pixels(), k, axis=0)) for k in range(3)]
    file = written(tmp_path, frames[0], "moving.gif", save_all=True, append_images=frames[1:])
    with pytest.raises(BadInput, match=r"animated or has several pages \(3\)"):
        read_picture(file, SIZE)


@pytest.mark.parametrize(
    ("picture", "says"),
    [
        (np.zeros((3, 6, 8), dtype=np.uint8), r"got ndarray \[3, 6, 8\]"),
        (torch.zeros(3, 6, 8), r"got Tensor \[3, 6, 8\]"),
        (np.zeros((0, 8, 3), dtype=np.uint8), r"\[0, 8, 3\]"),
        (np.zeros((6, 8, 3), dtype=bool), "got bool"),
        (np.zeros((6, 8, 3), dtype=np.int64), "got int64"),
        (np.full((6, 8, 3), 1.2), "run from 1.2 to 1.2"),
        (np.full((6, 8, 3), np.nan), "not finite"),
        (None, "got NoneType"),
        ([[1, 2], [3]], "got list"),
    ],
)
def test_arrays_of_another_kind_are_refused(picture, says):
    with pytest.raises(BadInput, match=says):
        read_picture(picture, SIZE)


def test_files_that_are_no_pictures_are_refused(tmp_path):
    with pytest.raises(BadInput, match=r"There is no file .*Did you mean .*there\.png"):
        written(tmp_path, Image.fromarray(some_pixels()), "there.png")
        read_picture(tmp_path / "their.png", SIZE)
    with pytest.raises(BadInput, match="is a folder"):
        read_picture(tmp_path, SIZE)
    (tmp_path / "notes.png").write_text("not a picture")
    with pytest.raises(BadInput, match="no picture that can be read: PNG, JPEG"):
        read_picture(tmp_path / "notes.png", SIZE)
    (tmp_path / "empty.png").touch()
    with pytest.raises(BadInput, match="no picture that can be read"):
        read_picture(tmp_path / "empty.png", SIZE)


def test_postscript_is_never_run(tmp_path):
    # Pillow would hand it to Ghostscript.
    file = tmp_path / "page.png"
    file.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 6\n%%EndComments\nshowpage\n")
    with pytest.raises(BadInput, match="no picture that can be read"):
        read_picture(file, SIZE)


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), kind=st.sampled_from(["PNG", "JPEG", "WEBP", "BMP", "TIFF", "GIF", "PPM"]))
def test_damaged_files_are_refused_or_read_but_never_crash(tmp_path, data, kind):
    buffer = io.BytesIO()
    Image.fromarray(some_pixels()).save(buffer, kind)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(1, len(content)))]
    file = tmp_path / "damaged"
    file.write_bytes(content)
    try:
        picture = read_picture(file, SIZE)
    except BadInput as error:
        assert str(file) in str(error)
    else:
        assert picture.shape == (3, 6, 8) and bool((picture.abs() <= 1).all())


def test_a_cut_off_picture_says_what_to_do(tmp_path):
    file = written(tmp_path, Image.fromarray(some_pixels()))
    file.write_bytes(file.read_bytes()[:-60])
    with pytest.raises(BadInput, match=r"cannot be read: .*save it again as PNG"):
        read_picture(file, SIZE)
    # PIL reads its header only; the pixels fail later, inside.
    with Image.open(file) as image, pytest.raises(BadInput, match="cannot be read"):
        read_picture(image, SIZE)


def bomb(side: int) -> bytes:
    """A PNG of a few bytes that claims side × side pixels."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = zlib.compress(b"\0" * 10_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@pytest.mark.parametrize("side", [6_000, 12_000, 60_000])
@pytest.mark.parametrize("resize", [None, "exact"])
def test_a_decompression_bomb_is_not_opened(tmp_path, side, resize):
    file = tmp_path / "bomb.png"
    file.write_bytes(bomb(side))
    with pytest.raises(BadInput, match=r"too large.*33,554,432 pixels are read"):
        read_picture(file, SIZE, resize=resize)


def test_a_colour_is_not_what_a_grey_picture_gets():
    shown = to_image(torch.zeros(3, 2, 2) + torch.tensor([-2.0, 0.0, 2.0]).view(3, 1, 1))
    assert shown.getpixel((0, 0)) == (0, 128, 255)
