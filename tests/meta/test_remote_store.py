"""The remote store: what one machine made, another takes; what is wrong with it is one line, never a wrong result."""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from foreign import CONFTEST, run
from test_store import bytes_of

from ptq.cli import main
from ptq.engine import remote as remote_module
from ptq.engine.remote import Remote
from ptq.engine.store import Entry, Store
from ptq.errors import NotInstalled, PtqError
from ptq.files import write_bytes

pytest.importorskip("fsspec", reason="fsspec is not installed")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    return tmp_path / "shared"


@pytest.fixture
def machine(tmp_path: Path, shared: Path) -> Callable[..., Store]:
    """A store of a machine of its own, on the shared folder."""

    def made(name: str, url: str = "", **options: Any) -> Store:
        return Store(tmp_path / name, remote=Remote(url or str(shared), **options))

    return made


def get(store: Store, content: bytes = b"made", of: object = "") -> tuple[Entry, str]:
    """The entry of a step, and whether it was made, fetched or found."""
    before = store.counts.copy()
    entry = store.get(bytes_of(content, of))
    ((_, how),) = (store.counts - before).keys()
    assert entry.path.read_bytes() == content
    return entry, how


def faults(store: Store) -> list[str]:
    assert store.remote is not None
    return list(store.remote.faults.values())


def one(folder: Path) -> Path:
    (found,) = (path for path in folder.iterdir() if path.is_file())
    return found


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_one_machine_made_another_takes(machine: Callable[..., Store], shared: Path) -> None:
    a, b = machine("a"), machine("b")
    first, how = get(a)
    assert (how, first.made) == ("made", True)
    second, how = get(b)
    assert (how, second.made) == ("fetched", False)
    assert (second.digest, second.seconds, second.notes) == (first.digest, first.seconds, first.notes)
    assert second.path != first.path
    assert get(b)[1] == "found"
    assert one(shared / "cas").name == hashlib.sha256(b"made").hexdigest()
    entry = json.loads(one(shared / "ac").read_text())
    assert entry["made_by"].keys() == {"libraries", "isa"}
    assert not faults(a) + faults(b)


def test_what_another_machine_makes_in_the_meantime_stays(machine: Callable[..., Store], shared: Path) -> None:
    get(machine("a"))
    entry = one(shared / "ac")
    before = entry.read_bytes()
    late = machine("b")
    made = late.remote and late.remote.fetch
    assert made
    object.__setattr__(late.remote, "fetch", lambda *_: None)  # it looked before a had made it
    assert get(late)[1] == "made"
    assert entry.read_bytes() == before


def test_read_only_adds_nothing(machine: Callable[..., Store], shared: Path) -> None:
    get(machine("a"), b"1", "one")
    before = files(shared)
    fork = machine("fork", read_only=True)
    assert [get(fork, b"1", "one")[1], get(fork, b"2", "two")[1]] == ["fetched", "made"]
    assert files(shared) == before
    assert not faults(fork)


FORGED: dict[str, Callable[[dict[str, Any]], object]] = {
    "no JSON": lambda entry: b"{",
    "no object": lambda entry: [],
    "nested": lambda entry: b"[" * 500_000,
    "empty": lambda entry: b"",
    "huge": lambda entry: {**entry, "notes": {"x": "y" * (1 << 20)}},
    "a path as digest": lambda entry: {**entry, "digest": "../../../../outside"},
    "an absolute path as digest": lambda entry: {**entry, "digest": "/etc/passwd"},
    "another schema": lambda entry: {**entry, "schema": "ptq-ac/9"},
    "another key": lambda entry: {**entry, "key": "0" * 64},
    "another kind": lambda entry: {**entry, "kind": "../model"},
    "wrong types": lambda entry: {**entry, "notes": {"x": {"y": []}}},
    "not a number": lambda entry: {**entry, "seconds": float("nan")},
    "negative": lambda entry: {**entry, "seconds": -1.0},
    "too many bytes": lambda entry: {**entry, "bytes": 1 << 60},
    "fewer bytes": lambda entry: {**entry, "bytes": 1},
    "no bytes": lambda entry: {**entry, "bytes": 0},
    "negative bytes": lambda entry: {**entry, "bytes": -1},
}


@pytest.mark.parametrize("how", FORGED)
def test_a_forged_entry_is_one_line_and_nothing_of_it_is_believed(
    machine: Callable[..., Store], shared: Path, tmp_path: Path, how: str
) -> None:
    get(machine("a"))
    entry = one(shared / "ac")
    forged = FORGED[how](json.loads(entry.read_text()))
    entry.write_bytes(forged if isinstance(forged, bytes) else json.dumps(forged).encode())
    before = {path.name for path in tmp_path.iterdir()}
    b = machine("b")
    assert get(b)[1] == "made"
    (line,) = faults(b)
    assert line.endswith("; made again here")
    assert "\n" not in line
    assert {path.name for path in tmp_path.iterdir()} == {*before, "b"}
    assert get(machine("c"))[1] == "fetched"  # b put it right


@pytest.mark.parametrize("damage", [b"mada", b"mad", b"", b"madeup"])
def test_damaged_bytes_are_made_again_and_put_right(machine: Callable[..., Store], shared: Path, damage: bytes) -> None:
    get(machine("a"))
    one(shared / "cas").write_bytes(damage)
    b = machine("b")
    assert get(b)[1] == ("fetched" if damage == b"madeup" else "made")  # no more is read than there should be
    assert len(faults(b)) == (damage != b"madeup")
    assert get(machine("c"))[1] == "fetched"


def test_bytes_of_another_object_are_not_taken(machine: Callable[..., Store], shared: Path) -> None:
    get(machine("a"), b"1111", "one")
    (first,) = (shared / "cas").iterdir()
    kept = next((shared / "ac").iterdir())
    get(machine("a"), b"2222", "two")
    (second,) = {*(shared / "cas").iterdir()} - {first}
    second.write_bytes(first.read_bytes())
    (other,) = {*(shared / "ac").iterdir()} - {kept}
    b = machine("b")
    assert get(b, b"2222", "two")[1] == "made"
    other.write_bytes(kept.read_bytes())  # the entry of one under the key of two
    c = machine("c")
    assert get(c, b"2222", "two")[1] == "made"
    assert [len(faults(b)), len(faults(c))] == [1, 1]


def test_an_entry_whose_bytes_are_gone_is_nothing(machine: Callable[..., Store], shared: Path) -> None:
    get(machine("a"))
    one(shared / "cas").unlink()
    b = machine("b")
    assert get(b)[1] == "made"
    assert not faults(b)
    assert get(machine("c"))[1] == "fetched"


class Failing:
    """A file system of which everything that is named fails, or takes long."""

    def __init__(self, real: Any, error: Exception | None, *names: str) -> None:
        self._real, self._error, self._names, self.calls = real, error, names, 0

    def __getattr__(self, name: str) -> Any:
        if name not in self._names:
            return getattr(self._real, name)

        def fail(*_: object, **__: object) -> None:
            self.calls += 1
            if self._error is not None:
                raise self._error
            time.sleep(30)

        return fail


READS, WRITES = ("cat_file", "info"), ("put_file",)


@pytest.mark.parametrize(
    ("error", "names", "words"),
    [
        (PermissionError(13, "Access Denied"), (*READS, *WRITES), "reading fails"),
        (PermissionError(13, "Access Denied"), WRITES, "writing fails"),
        (OSError(28, "No space left on device"), WRITES, "writing fails"),
        (ConnectionResetError("the peer\nhung up"), READS, "reading fails"),
        (None, READS, "no answer within"),
        (None, WRITES, "no answer within"),
    ],
)
def test_a_remote_that_fails_is_one_line_and_left_alone(
    tmp_path: Path, error: Exception | None, names: tuple[str, ...], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote_module, "RATE", 1e9)
    said: list[str] = []
    remote = Remote(f"memory://{tmp_path.name}{len(names)}", notify=said.append, patience=0.2)
    remote._fs = failing = Failing(remote._fs, error, *names)
    store, start = Store(tmp_path / "a", remote=remote), time.perf_counter()
    for number in range(5):
        assert get(store, str(number).encode(), number)[1] == "made"
    assert time.perf_counter() - start < 2.0
    assert len(said) == 1
    assert words in said[0]
    assert "\n" not in said[0]
    assert failing.calls == 1
    monkeypatch.setattr(remote_module.time, "monotonic", lambda: float("inf"))
    remote._fs = failing._real  # it is tried again after a while
    assert get(Store(tmp_path / "b", remote=remote), b"x", "later")[1] == "made"
    assert get(Store(tmp_path / "c", remote=remote), b"x", "later")[1] == "fetched"


def test_a_url_that_is_none_is_an_error_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PtqError, match="no URL that fsspec knows"):
        Remote("nothing://here")
    with pytest.raises(PtqError, match=r"store nothing://here: (?!.*secret)"):
        Remote("nothing://key:secret@here")
    monkeypatch.setitem(__import__("sys").modules, "fsspec", None)
    with pytest.raises(NotInstalled, match="cluster"):
        Remote("memory://x")


def test_the_environment_names_it(tmp_path: Path, shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PTQ_STORE", str(shared))
    monkeypatch.setenv("PTQ_CACHE", str(tmp_path / "a"))
    assert get(Store())[1] == "made"
    monkeypatch.setenv("PTQ_CACHE", str(tmp_path / "b"))
    monkeypatch.setenv("PTQ_STORE_READ_ONLY", "1")
    assert [get(Store())[1], get(Store(), b"2", 2)[1]] == ["fetched", "made"]
    assert len(list((shared / "ac").iterdir())) == 1


def cache(*arguments: str) -> None:
    with pytest.raises(SystemExit) as left:
        main(["cache", *arguments])
    assert left.value.code == 0
    del left  # its traceback holds the command's store, which a next one would take for another run
    gc.collect()


def test_ptq_cache_shows_both_levels_and_prunes_by_age_and_size(
    machine: Callable[..., Store],
    tmp_path: Path,
    shared: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    store = machine("a")
    for number in range(4):
        entry, _ = get(store, b"%d" % number * 1_000_000, number)
        made = time.time() - 86400 * (40 - 10 * number)
        os.utime(entry.path, (made, made))
        os.utime(entry.path.with_name(f"{entry.path.stem}.made.json"), (made, made))
        os.utime(shared / "cas" / entry.digest, (made, made))
        os.utime(shared / "ac" / entry.path.stem, (made, made))
    del store
    foreign = shared / "ac" / "notes.txt"
    foreign.write_text("mine")
    monkeypatch.setenv("PTQ_CACHE", str(tmp_path / "a"))
    cache("--store", str(shared))
    assert capsys.readouterr().out.splitlines()[-1].split()[:2] == ["shared", "4"]
    cache("prune", "--older-than", "35", "--store", str(shared))
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["1", "1"]
    cache("prune", "--keep", "2.1M", "--store", str(shared))
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()] == ["1", "1"]
    assert len(list((shared / "cas").iterdir())) == 2
    assert foreign.read_text() == "mine"
    left = machine("a")
    assert [get(left, b"%d" % number * 1_000_000, number)[1] for number in range(4)] == [
        "made",
        "made",
        "found",
        "found",
    ]


def test_bytes_that_wait_for_their_entry_are_not_pruned(machine: Callable[..., Store], shared: Path) -> None:
    get(machine("a"))
    write_bytes(shared / "cas" / ("0" * 64), b"on its way")
    write_bytes(shared / "cas" / ("1" * 64), b"left behind")
    os.utime(shared / "cas" / ("1" * 64), (1, 1))
    remote = Remote(str(shared))
    assert remote.prune(lambda held: []) == (0, len(b"left behind"))
    assert {path.name[0] for path in (shared / "cas").iterdir()} >= {"0"}


def test_a_run_takes_from_it_and_says_how_much(
    repository: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = str(tmp_path / "shared")
    results = []
    for name in ("a", "b"):
        monkeypatch.setenv("PTQ_CACHE", str(tmp_path / name))
        result = run(repository, "--ptq-store", shared, "--ptq-json", f"{name}.json")
        result.assert_outcomes(passed=7)
        results.append(result)
    results[1].stdout.fnmatch_lines(["ptq: store: 0 made, * found, * fetched"])
    assert (repository.path / "a.json").read_bytes() == (repository.path / "b.json").read_bytes()
    monkeypatch.setenv("PTQ_CACHE", str(tmp_path / "c"))
    before = files(tmp_path / "shared")
    run(repository, "--ptq-store", shared, "--ptq-store-read-only", "-k", "fp32").assert_outcomes(
        passed=1, deselected=6
    )
    assert files(tmp_path / "shared") == before


def test_several_cases_are_fetched_at_a_time(
    repository: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared, peak, running, guard, real = str(tmp_path / "shared"), [0], [0], threading.Lock(), Remote._read
    monkeypatch.setenv("PTQ_CACHE", str(tmp_path / "a"))
    run(repository, "--ptq-store", shared).assert_outcomes(passed=7)

    def far(self: Remote, name: str, start: int, stop: int) -> bytes:
        with guard:
            running[0] += 1
            peak[0] = max(peak[0], running[0])
        time.sleep(0.03)
        with guard:
            running[0] -= 1
        return real(self, name, start, stop)

    monkeypatch.setattr(Remote, "_read", far)
    monkeypatch.setenv("PTQ_CACHE", str(tmp_path / "b"))
    result = run(repository, "--ptq-store", shared)
    result.assert_outcomes(passed=7)
    result.stdout.fnmatch_lines(["ptq: store: 0 made, *"])
    assert peak[0] >= 4


def test_a_remote_that_is_down_is_told_once_for_all_workers(
    repository: pytest.Pytester, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("xdist", reason="pytest-xdist is not installed")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("PTQ_CACHE", str(tmp_path / "a"))
    (repository.path / "conftest.py").write_text(CONFTEST)
    result = run(repository, "--ptq-store", str(tmp_path / "file" / "x"), "-n", "2", "-k", "minmax and not channel")
    result.assert_outcomes(passed=3)
    assert result.ret == 0
    assert len([line for line in result.outlines if "ptq: store /" in line or "fails" in line]) == 1


def test_a_url_that_is_none_is_red_in_one_line(repository: pytest.Pytester) -> None:
    result = run(repository, "--ptq-store", "nothing://here")
    assert result.ret != 0
    assert len([line for line in result.outlines if "no URL that fsspec knows" in line]) >= 1


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Any]]:
    """The URL of an empty bucket on this machine, and its server."""
    pytest.importorskip("s3fs", reason="s3fs is not installed")
    server_module = pytest.importorskip("moto.server", reason="moto is not installed")
    import s3fs

    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir("bucket")
    yield "s3://bucket/ptq", server
    with contextlib.suppress(Exception):  # the test stopped it
        server.stop()
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_bucket(machine: Callable[..., Store], bucket: tuple[str, Any]) -> None:
    import s3fs

    url, server = bucket
    a = machine("a", url)
    get(a, b"1", "one")
    get(a, b"", "nothing")
    b = machine("b", url)
    assert [get(b, b"1", "one")[1], get(b, b"", "nothing")[1]] == ["fetched", "fetched"]
    assert b.remote
    assert b.remote.usage()[0] == 2
    system = s3fs.S3FileSystem()
    (key,) = (each for each in system.find("bucket/ptq/cas") if system.info(each)["size"] == 1)
    system.pipe_file(key, b"")  # cut off: no range of it can be asked for
    c = machine("c", url)
    assert get(c, b"1", "one")[1] == "made"
    assert len(faults(c)) == 1
    lost = machine("d", "s3://none/ptq")
    assert [get(lost, b"1", "one")[1], get(lost, b"2", "two")[1]] == ["made", "made"]
    assert len(faults(lost)) == 1
    assert b.remote.prune(lambda held: [each.key for each in held])[0] == 2
    server.stop()
    down = machine("e", url, patience=0.5)
    assert [get(down, b"1", "one")[1], get(down, b"2", "two")[1]] == ["made", "made"]
    assert len(faults(down)) == 1
