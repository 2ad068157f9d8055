"""Letterbox: the recipe to the pixel, boxes there and back, and what is no image."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ptq.checks.letterbox import check_letterbox
from ptq.data.coco import CocoImages, Truth
from ptq.data.contract import ContractBroken
from ptq.data.letterbox import PAD, Letterbox, Recipe, letterbox, read_image
from ptq.errors import BadData

cv2 = pytest.importorskip("cv2", reason="letterboxing needs OpenCV: pip install 'ptq[coco]'")

SIDES = st.one_of(st.integers(1, 2000), st.sampled_from([1, 2, 3, 639, 640, 641, 1279, 1280, 1281, 2000]))


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(SIDES, SIDES, st.lists(st.floats(0, 1), min_size=4, max_size=4))
def test_boxes_come_back_within_half_a_pixel(width: int, height: int, shares: list[float]) -> None:
    x1, x2 = sorted(np.array(shares[:2]) * width)
    y1, y2 = sorted(np.array(shares[2:]) * height)
    box = Letterbox(width, height)
    # A network's output is float32, in pixels of its input.
    placed = box.place([[x1, y1, x2, y2]]).astype(np.float32)
    assert (placed >= 0).all()
    assert (placed <= 640).all()
    assert np.abs(box.restore(placed) - [[x1, y1, x2, y2]]).max() < 0.5


@given(SIDES, SIDES)
def test_geometry(width: int, height: int) -> None:
    box = Letterbox(width, height)
    (left, top), inner = box.offset, box.inner
    assert max(inner) == 640
    assert min(inner) >= 1
    assert 0 <= 640 - inner[0] - 2 * left <= 1
    assert 0 <= 640 - inner[1] - 2 * top <= 1
    # Rounding moves a side by half a pixel at most, unless a thin one is kept at 1.
    ratio = 640 / max(width, height)
    assert abs(inner[0] - width * ratio) <= 0.5 or inner[0] == 1
    assert abs(inner[1] - height * ratio) <= 0.5 or inner[1] == 1


@pytest.mark.parametrize(
    ("width", "height"), [(2000, 1), (1, 2000), (1, 1), (101, 67), (1333, 801), (640, 427), (500, 333)]
)
def test_content_lies_where_the_boxes_say(width: int, height: int) -> None:
    # The right half is white: its edge is found in the pixels of the square, not computed with the code under test.
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[:, width // 2 :] = 255
    box = Letterbox(width, height)
    square = box.apply(image)
    left, top = box.offset
    row = square[top + box.inner[1] // 2, left : left + box.inner[0], 0] / 255.0
    edge = left + box.inner[0] - row.sum()
    found = box.restore([[edge, top, left + box.inner[0], top + box.inner[1]]])[0]
    # Linear interpolation that shrinks skips pixels: an edge is known to a pixel of the coarser grid.
    assert abs(found[0] - width // 2) <= 0.5 * max(1.0, 1 / box.scale[0]) + 1e-9
    assert found[1:] == pytest.approx([0, width, height], abs=1e-9)


@pytest.mark.parametrize(
    ("shape", "inner", "offset"),
    # Worked by hand: 427 rows leave 213, 106 before and 107 after; 640 * 333 / 500 is 426.24.
    [((427, 640), (640, 427), (0, 106)), ((333, 500), (640, 426), (0, 107)), ((641, 3), (3, 640), (318, 0))],
)
def test_odd_sizes_are_placed_as_published(
    shape: tuple[int, int], inner: tuple[int, int], offset: tuple[int, int]
) -> None:
    box = Letterbox(shape[1], shape[0])
    assert box.inner == inner
    assert box.offset == offset
    image = picture(*shape)
    square = letterbox(image)
    left, top = offset
    content = square[top : top + inner[1], left : left + inner[0]]
    want = image if inner == (shape[1], shape[0]) else cv2.resize(image, inner, interpolation=cv2.INTER_LINEAR)
    assert (content == want).all()
    square[top : top + inner[1], left : left + inner[0]] = PAD
    assert (square == PAD).all()


@pytest.mark.parametrize("shape", [(427, 640), (333, 501), (641, 3), (1, 2000), (2000, 1), (77, 77), (1081, 1920)])
def test_equal_to_ultralytics(shape: tuple[int, int]) -> None:
    augment = pytest.importorskip("ultralytics.data.augment", reason="compares with Ultralytics where it is installed")
    image = picture(*shape)
    assert (letterbox(image) == augment.LetterBox((640, 640), auto=False)(image=image)).all()


def test_network_input_is_rgb_planes_in_0_to_1() -> None:
    square = np.zeros((4, 4, 3), dtype=np.uint8)
    square[..., 2] = 255  # red, last in BGR
    square[0, 1, 0] = 51
    made = Recipe().network_input(square)
    assert made.dtype == np.float32
    assert made.shape == (3, 4, 4)
    assert (made[0] == 1).all()
    assert made[2, 0, 1] == np.float32(0.2)
    assert made.flags.c_contiguous


def write(path: Path, image: np.ndarray) -> Path:
    assert cv2.imwrite(str(path), image)
    return path


def test_grey_is_converted(tmp_path: Path) -> None:
    read = read_image(write(tmp_path / "grey.png", picture(5, 7)[..., 0]))
    assert read.shape == (5, 7, 3)
    assert (read[..., 0] == read[..., 2]).all()


def test_cmyk_is_converted(tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image", reason="writes a CMYK file with Pillow")
    # Cyan ink at full strength, nothing else: no red, all green and blue.
    pillow.new("CMYK", (16, 16), (255, 0, 0, 0)).save(tmp_path / "cyan.jpg", quality=95)
    blue, green, red = read_image(tmp_path / "cyan.jpg")[8, 8].astype(int)
    assert red < 16
    assert green > 140
    assert blue > 140


@pytest.mark.parametrize("suffix", [".jpg", ".png"])
@pytest.mark.parametrize("share", [0.2, 0.6, 0.95])
def test_a_file_cut_short_is_named(tmp_path: Path, suffix: str, share: float) -> None:
    whole = write(tmp_path / f"whole{suffix}", picture(64, 64)).read_bytes()
    path = tmp_path / f"cut{suffix}"
    path.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(BadData, match=rf"cut{suffix}: (ends in the middle|OpenCV cannot decode)"):
        read_image(path)
    assert read_image(tmp_path / f"whole{suffix}").shape == (64, 64, 3)


@pytest.mark.parametrize(
    ("content", "said"), [(b"", "0 bytes"), (b"no image at all", "begins as no"), (b"\xff\xd8\xff\xd9", "begins as no")]
)
def test_what_is_no_image_is_named(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(BadData, match=f"broken.jpg: .*{said}"):
        read_image(path)


def test_an_absent_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"absent\.jpg: cannot be read"):
        read_image(tmp_path / "absent.jpg")


def annotated(folder: Path, *sizes: tuple[int, int], kind: type[CocoImages] = CocoImages) -> CocoImages:
    paths, truths = [], []
    for number, (width, height) in enumerate(sizes):
        # Values of 0..99 only: content never equals the padding.
        paths.append(write(folder / f"{number}.png", picture(height, width) % 100))
        empty = np.empty(0)
        truths.append(Truth(width, height, np.empty((0, 4)), empty.astype(np.int64), empty, empty.astype(np.bool_)))
    return kind(tuple(paths), truths=tuple(truths))


class Stretched(CocoImages):
    def read(self, index: int) -> np.ndarray:
        return Recipe().network_input(cv2.resize(read_image(self.paths[index]), (640, 640)))


class PaddedBlack(CocoImages):
    def read(self, index: int) -> np.ndarray:
        made = super().read(index)
        made[made == np.float32(PAD / 255)] = 0
        return made


class InTheCorner(CocoImages):
    def read(self, index: int) -> np.ndarray:
        return np.roll(super().read(index), -self.letterbox(index).offset[1], axis=1)


class NotScaledUp(CocoImages):
    def read(self, index: int) -> np.ndarray:
        image = read_image(self.paths[index])
        square = np.full((640, 640, 3), PAD, dtype=np.uint8)
        top, left = (640 - image.shape[0]) // 2, (640 - image.shape[1]) // 2
        square[top : top + image.shape[0], left : left + image.shape[1]] = image
        return Recipe().network_input(square)


def test_letterbox_check_is_green_on_letterboxed_images(tmp_path: Path) -> None:
    check_letterbox(annotated(tmp_path, (64, 48), (33, 65), (50, 50)))


@pytest.mark.parametrize(
    ("sabotage", "said"),
    [
        (Stretched, "likely cause: stretched"),
        (PaddedBlack, "padding is 0, but should be 114 of 255"),
        (InTheCorner, "not centred"),
        (NotScaledUp, "likely cause: not scaled up"),
    ],
)
def test_letterbox_check_turns_red(tmp_path: Path, sabotage: type[CocoImages], said: str) -> None:
    with pytest.raises(ContractBroken, match=said):
        check_letterbox(annotated(tmp_path, (64, 48), kind=sabotage))


def test_letterbox_check_wants_padding_to_look_at(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="are square"):
        check_letterbox(annotated(tmp_path, (50, 50)))
