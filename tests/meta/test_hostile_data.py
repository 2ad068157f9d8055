"""Data files that are crafted, damaged or careless: none runs or takes what it claims, and each is one line."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cifar10_files
import hostile_files
import numpy as np
import pytest
from hostile_coco import ANNOTATED
from hostile_images import png
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ptq.calibration.cache_file import load_ranges, load_statistics, save_ranges, save_statistics
from ptq.calibration.patches import Moments, load_moments, save_moments
from ptq.calibration.statistics import collect
from ptq.cases import Case
from ptq.data import cifar10
from ptq.data.array_files import read_array, read_arrays
from ptq.data.coco import read_coco
from ptq.data.content import read_json
from ptq.data.image_files import read_list, write_list
from ptq.data.image_header import image_header
from ptq.data.letterbox import read_image
from ptq.errors import BadData, PtqError
from ptq.gate.reference import References, load_references
from ptq.gate.result import PASS, Result
from ptq.report.diff import diff
from ptq.report.json import load, report

cv2 = pytest.importorskip("cv2", reason="reading images needs OpenCV: pip install 'ptq[coco]'")
pytest.importorskip("PIL", reason="reads images by Pillow, too")

LONGEST = 700
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="limits memory by what /proc says")


def below(root: Path) -> dict[str, tuple[int, int]]:
    """Every file with its size and when it was written."""
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in root.rglob("*")}


def became(root: Path, corpus: hostile_files.Corpus, seconds: float) -> dict[str, tuple[str, str]]:
    """What became of each file and the line it gave, read by a process of its own."""
    (root / "corpus.json").write_text(json.dumps({name: (route, str(path)) for name, (route, path) in corpus.items()}))
    command = [sys.executable, hostile_files.__file__, str(root), str(seconds)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    return {name: (what, line) for name, what, line in json.loads(done.stdout.splitlines()[-1])}


@LINUX
def test_no_file_runs_hangs_takes_the_memory_or_is_a_traceback(tmp_path: Path) -> None:
    corpus = hostile_files.corpus(tmp_path)
    before = below(tmp_path)
    found = became(tmp_path, corpus, seconds=20)
    (tmp_path / "corpus.json").unlink()
    assert below(tmp_path) == before  # the canary is not there, and nothing else is
    assert len(found) == len(corpus) > 500
    wrong = {name: said for name, said in found.items() if said[0] not in ("answered", "refused")}
    assert not wrong
    answered = {name for name, said in found.items() if said[0] == "answered"}
    absent = {name for name in corpus if name.startswith("reference") and "absent" in name}  # there are none yet
    empty = {name for name in corpus if name.startswith("moments") and "no rows" in name}
    assert answered == {name for name in corpus if name.endswith(hostile_files.FINE)} | absent | empty
    for name, (_, line) in found.items():
        assert name in answered or (line and len(line) <= LONGEST), name


@LINUX
def test_it_would_see_what_runs_hangs_takes_the_memory_or_is_a_traceback(tmp_path: Path) -> None:
    crafted = tmp_path / "x"
    crafted.write_bytes(pickle.dumps(hostile_files.Runs(tmp_path / "canary")))
    before = below(tmp_path)
    found = became(tmp_path, {way: (way, crafted) for way in ("greedy", "slow", "wrong", "runs")}, seconds=0.5)
    assert [what for what, _ in found.values()] == ["MemoryError", "TooSlow", "KeyError", "answered"]
    (tmp_path / "corpus.json").unlink()
    assert below(tmp_path).keys() - before.keys() == {str(tmp_path / "canary")}


# --- any damage


def held(call: Callable[[], object]) -> None:
    """It answers, or gives one line."""
    try:
        call()
    except PtqError as error:
        assert 0 < len(str(error)) <= LONGEST  # noqa: PT017
        assert "\n" not in str(error)  # noqa: PT017


NASTY = [
    None,
    True,
    0,
    -1,
    10**30,
    -(10**400),
    1e308,
    float("nan"),
    float("inf"),
    "",
    "x",
    "\ud800",
    "\x1b[31m\n",
    [],
    {},
]
NASTY += [[[]], {"x": 1}, [None], [float("nan")] * 4, json.loads("[" * 500 + "]" * 500)]
WRITTEN = [json.dumps(each) for each in NASTY]


def mutated(draw: st.DataObject, content: Any) -> Any:
    """JSON with one to three of its parts replaced, left out or twice there."""
    content = json.loads(json.dumps(content))
    for _ in range(draw.draw(st.integers(1, 3))):
        part = content
        while True:
            keys = list(part) if isinstance(part, dict) else list(range(len(part)))
            if not keys:
                break
            key = draw.draw(st.sampled_from(keys))
            if isinstance(part[key], dict | list) and part[key] and draw.draw(st.integers(0, 4)):
                part = part[key]
                continue
            how = draw.draw(st.integers(0, 9))
            if how == 0:
                del part[key]
            elif how == 1 and isinstance(part, list):
                part.append(part[key])
            else:
                part[key] = json.loads(draw.draw(st.sampled_from(WRITTEN)))
            break
    return content


def damaged(draw: st.DataObject, content: bytes) -> bytes:
    """Bytes of which one to four places are others."""
    changed = bytearray(content)
    for _ in range(draw.draw(st.integers(1, 4))):
        at = draw.draw(st.one_of(st.integers(0, min(200, len(content))), st.integers(0, len(content))))
        changed[at : at + draw.draw(st.integers(0, 4))] = draw.draw(st.binary(max_size=6))
    return bytes(changed)


def result(dtype: str) -> Result:
    case = Case("digits", "onnxruntime", dtype, "minmax")
    more = {
        "drop": 1.0,
        "interval": (0.0, 2.0),
        "per_class": {"cat": 0.9},
        "evaluation": "e",
        "outcomes": "AAA=",
        "n": 16,
    }
    return Result(case, "top1", PASS, value=0.9, fp32_value=0.91, notes={"a": "b"}, bar={"max_drop": 1.0}, **more)  # type: ignore[arg-type]


RACE = {
    "id": result("int8").case.id, **result("int8").case.fields(), "stands_for": [result("int8").case.id], "batch": 1,
    "against": "fp32", "ratio": 0.5, "low": 0.4, "high": 0.6, "confidence": 0.95, "speedup": 2.0, "other_ms": 1.0,
    "reference_ms": 2.0, "rounds": 20, "seconds": 1.0, "executed": "all", "verdict": PASS, "reason": "", "red": False,
}  # fmt: skip


def documents(folder: Path) -> dict[str, tuple[Any, Callable[[Path], object]]]:
    """By name: what a file says, and its reader."""
    reported = report([result("int8").as_json(), result("uint8").as_json()], {"cpu": "x"}, [RACE])
    References(folder / "reference").updated([result("int8")], {"cpu": "x"}, [result("int8").case.id]).save()
    save_statistics(folder / "statistics", collect([{"x": np.linspace(-1, 1, 30, dtype=np.float32)[None]}]))
    save_ranges(folder / "ranges", {"x": (0.0, 1.0), "y": (-1.0, 1.0)})
    (folder / "report").write_text(json.dumps(reported))
    (folder / "images").mkdir()
    (folder / "images" / "a.png").write_bytes(png(4, 4))
    whole = load(folder / "report")

    def compared(path: Path) -> None:
        found = load(path)
        diff(whole, found).lines()
        diff(found, whole).lines()

    def referred(path: Path) -> None:
        load_references(path).compare(result("int8"))

    return {
        "coco": (ANNOTATED, lambda path: list(read_coco(folder / "images", path, 32).batches(1))),
        "report": (reported, compared),
        "reference": (json.loads((folder / "reference").read_text()), referred),
        "statistics": (json.loads((folder / "statistics").read_text()), load_statistics),
        "ranges": (json.loads((folder / "ranges").read_text()), load_ranges),
    }


ANY = settings(suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None)


@pytest.mark.parametrize("name", hostile_files.JSON)
def test_any_json_is_an_answer_or_one_line(name: str, tmp_path: Path) -> None:
    content, read = documents(tmp_path)[name]
    path = tmp_path / "x.json"
    path.write_text(json.dumps(content))
    read(path)  # as it is, it is fine

    @settings(ANY, max_examples=200)
    @given(st.data())
    def hold(draw: st.DataObject) -> None:
        path.write_text(json.dumps(mutated(draw, content)))
        held(lambda: read(path))

    hold()


def binaries(folder: Path) -> dict[str, tuple[bytes, Callable[[Path], object]]]:
    arrays, picture = io.BytesIO(), np.arange(300, dtype=np.uint8).reshape(10, 10, 3)
    np.savez_compressed(arrays, x=np.zeros((3, 2), np.float32), labels=np.arange(3))
    np.save(folder / "x.npy", np.zeros((3, 2), np.float32))
    save_moments(folder / "moments", {"x": Moments(np.zeros((1, 2)), np.zeros((1, 2, 2)))})
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.add(cifar10_files.write(folder / "batches", 1), "cifar")
    readers: dict[str, tuple[bytes, Callable[[Path], object]]] = {
        "x.npy": ((folder / "x.npy").read_bytes(), read_array),
        "x.npz": (arrays.getvalue(), read_arrays),
        "moments.npz": ((folder / "moments").read_bytes(), load_moments),
        "x.tar": (packed.getvalue(), lambda path: cifar10.read(path, "test")),
    }
    readers |= {
        f"x{suffix}": (cv2.imencode(suffix, picture)[1].tobytes(), read_image)
        for suffix in (".png", ".jpg", ".bmp", ".webp")
    }
    return readers


@pytest.mark.parametrize("name", ["x.npy", "x.npz", "moments.npz", "x.tar", "x.png", "x.jpg", "x.bmp", "x.webp"])
@pytest.mark.filterwarnings("ignore:Reading `.npy`:UserWarning")
def test_any_bytes_are_an_answer_or_one_line(name: str, tmp_path: Path) -> None:
    content, read = binaries(tmp_path)[name]
    path = tmp_path / name

    def written(held: bytes) -> Path:
        path.write_bytes(gzip.compress(held, 1) if name == "x.tar" else held)
        return path

    read(written(content))  # as it is, it is fine

    @settings(ANY, max_examples=100)
    @given(st.data())
    def hold(draw: st.DataObject) -> None:
        written(damaged(draw, content))
        held(lambda: read(path))

    hold()


# --- one by one


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp"])
@pytest.mark.parametrize(("height", "width"), [(1, 1), (3, 500), (257, 2)])
def test_a_header_says_what_the_decoder_finds(suffix: str, height: int, width: int) -> None:
    picture = np.zeros((height, width, 3), np.uint8)
    for options in (
        [],
        [cv2.IMWRITE_WEBP_QUALITY, 50, cv2.IMWRITE_JPEG_PROGRESSIVE, 1][: 2 if suffix == ".webp" else 0],
    ):
        header = image_header(cv2.imencode(suffix, picture, options)[1].tobytes(), Path("x"))
        assert header[1:] == (width, height)
        assert header.format.lower().startswith(suffix[1:3])


def test_a_pipe_that_somebody_writes_to_is_read() -> None:
    """``ptq diff <(git show HEAD:report.json) report.json``"""
    code = "from pathlib import Path; from ptq.data.content import read_json; print(read_json(Path('/dev/stdin')))"
    command = f"(sleep 0.5; echo '[1, 2]') | {sys.executable} -c \"{code}\""
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
    assert done.stdout == "[1, 2]\n", done.stderr


def test_a_file_above_its_limit_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "x.json").write_text("[1, 2, 3]")
    assert read_json(tmp_path / "x.json") == [1, 2, 3]
    monkeypatch.setattr("ptq.data.content.LARGEST_JSON", 8)
    with pytest.raises(BadData, match=r"x.json: 9 bytes, but should have at most 8: is it the right file"):
        read_json(tmp_path / "x.json")


@pytest.mark.parametrize("name", ["a\nb.png", " a.png", "a\x1b.png", "a\udcff.png"])
def test_a_name_that_no_list_can_hold_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    (tmp_path / "Bär [a].png").touch()
    write_list(tmp_path / "list", [tmp_path / "Bär [a].png"], tmp_path)
    assert read_list(tmp_path / "list", tmp_path) == (tmp_path / "Bär [a].png",)
    with pytest.raises(BadData, match="rename the file"):
        write_list(tmp_path / "list", [tmp_path / name], tmp_path)


def test_a_locale_without_letters_reads_a_path_with_them(tmp_path: Path) -> None:
    folder = tmp_path / "Bär"
    folder.mkdir()
    (folder / "ö.png").write_bytes(png(4, 4))
    code = "import sys; from ptq.data.inputs import read_inputs; print(len(read_inputs(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env={"LC_ALL": "C"})
    assert (done.stdout, done.stderr) == ("1\n", "")
