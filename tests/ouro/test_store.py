"""Files are whole or absent, specs name their folder, and errors are one line."""

import errno
import json
import os
import subprocess
import sys

import pytest
import torch

from ouro import store
from ouro.store import (
    Store,
    WriteError,
    check_writable,
    default_root,
    digest,
    read_json,
    read_tensors,
    write_bytes,
    write_json,
    write_tensors,
)
from tests.testing import assert_close

SPEC = {"model": "vim_nano", "bits": "w4a4o8", "seed": 0, "window": [5, 5]}


def files(folder):
    return sorted(path.name for path in folder.iterdir())


def test_digest_ignores_order_only():
    assert digest(SPEC) == digest(dict(reversed(SPEC.items()))) == digest({**SPEC, "window": (5, 5)})
    assert digest(SPEC) != digest({**SPEC, "seed": 1})
    assert len(digest(SPEC)) == 16 and int(digest(SPEC), 16) >= 0


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"a": {"b": torch.ones(1)}}, r"spec\.a\.b is a Tensor, expected a JSON value"),
        ({"a": [0.0, float("nan")]}, r"spec\.a\[1\] is nan, which JSON cannot hold"),
        ({"a": {1: 2}}, r"spec\.a has the key 1, expected a string"),
    ],
)
def test_digest_names_what_is_no_json(spec, message):
    with pytest.raises(ValueError, match=message):
        digest(spec)


def test_root_is_read_when_asked(monkeypatch, tmp_path):
    monkeypatch.setenv("OURO_HOME", str(tmp_path))
    assert default_root() == tmp_path
    assert Store().folder == tmp_path / "runs"
    monkeypatch.delenv("OURO_HOME")
    assert default_root().parts[-2:] == (".cache", "ouro")


def test_run_round_trip(tmp_path):
    run = Store(tmp_path).open(SPEC)
    assert run.path == tmp_path / "runs" / digest(SPEC)
    assert (run.load_tensors(), run.report(), run.chunks()) == (None, None, [])
    base = torch.arange(12.0).reshape(3, 4)
    tensors = {"x": base, "view": base.T, "same": base, "int": torch.tensor([1, 2], dtype=torch.int8)}
    run.save_tensors(tensors, metadata={"made by": "test"})
    run.save_report({"top1": 0.5, "worst": None})

    again = Store(tmp_path).open(SPEC)
    for name, tensor in tensors.items():
        loaded = again.load_tensors()[name]
        assert loaded.dtype == tensor.dtype
        assert_close(loaded, tensor, name=name, rtol=0, atol=0)
    assert read_tensors(run.path / "tensors.safetensors")[1] == {"made by": "test"}
    assert again.report() == {"top1": 0.5, "worst": None}
    assert again.spec() == SPEC
    assert files(run.path) == ["report.json", "spec.json", "tensors.safetensors"]


def test_runs_are_listed_by_age(tmp_path):
    assert Store(tmp_path).runs() == []
    opened = [Store(tmp_path).open({"seed": seed}).path for seed in range(3)]
    for age, path in enumerate(opened):
        os.utime(path / "spec.json", (age, age))
    Store(tmp_path).open({"seed": 0})
    assert [run.path for run in Store(tmp_path).runs()] == opened


def test_find_gives_a_run_once_it_was_opened(tmp_path):
    store = Store(tmp_path / "store")
    assert store.find({"a": 1}) is None and not (tmp_path / "store").exists()
    opened = store.open({"a": 1})
    assert store.find({"a": 1}).path == opened.path and store.find({"a": 2}) is None


def test_open_refuses_a_foreign_spec(tmp_path):
    run = Store(tmp_path).open(SPEC)
    write_json(run.path / "spec.json", {"model": "other"})
    with pytest.raises(ValueError, match="holds another spec"):
        Store(tmp_path).open(SPEC)


def test_chunks_are_the_finished_ones_in_order(tmp_path):
    run = Store(tmp_path).open(SPEC)
    for index in (10, 2, 10000):
        run.save_tensors({"images": torch.full((1,), float(index))}, name=f"chunk-{index:04d}")
    (run.path / ".chunk-0003.safetensors.0.part").write_bytes(b"half")
    (run.path / "chunk-4.safetensors").write_bytes(b"foreign")
    assert run.chunks() == ["chunk-0002", "chunk-0010", "chunk-10000"]
    assert [run.load_tensors(name)["images"].item() for name in run.chunks()] == [2, 10, 10000]


@pytest.mark.parametrize("name", ["../x", "", ".hidden", "a/b"])
def test_tensor_names_stay_in_the_folder(tmp_path, name):
    with pytest.raises(ValueError, match="cannot name a file of a run"):
        Store(tmp_path).open(SPEC).save_tensors({}, name=name)


def test_killed_writer_leaves_the_old_file(tmp_path):
    path = write_bytes(tmp_path / "x", b"old")
    code = (
        "import os, signal; from ouro import store; "
        "store.os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL); "
        f"store.write_bytes({str(path)!r}, b'new')"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode != 0
    assert path.read_bytes() == b"old"
    # what the killed process left is no run, no chunk and in nobody's way
    assert len(files(tmp_path)) == 2
    write_bytes(path, b"newer")
    assert path.read_bytes() == b"newer"


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_full_disk_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = write_tensors(tmp_path / "x.safetensors", {"x": torch.ones(3)})

    def fail(*_args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(store.os, call, fail)
    with pytest.raises(WriteError, match=r"^cannot write .*x\.safetensors: No space left on device") as caught:
        write_tensors(path, {"x": torch.zeros(3)})
    monkeypatch.undo()
    assert caught.value.errno == errno.ENOSPC and "\n" not in str(caught.value)
    assert files(tmp_path) == ["x.safetensors"]
    assert_close(read_tensors(path)[0]["x"], torch.ones(3))


def test_interrupt_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(*_args):
        raise KeyboardInterrupt

    monkeypatch.setattr(store.os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(tmp_path / "x", b"data")
    assert files(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no device files on this system")
def test_devices_and_folders_are_refused(tmp_path):
    for target in ("/dev/null", tmp_path):
        with pytest.raises(WriteError, match="it is a folder or a device"):
            write_bytes(target, b"data")
    write_bytes(tmp_path / "file", b"data")
    with pytest.raises(WriteError, match="cannot write"):
        write_bytes(tmp_path / "file" / "below", b"data")


def test_read_only_file_is_refused(tmp_path, monkeypatch):
    path = write_bytes(tmp_path / "x", b"old")

    def refuse(*_args):
        # said outright, because the superuser may write to every file
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(store.os, "open", refuse)
    with pytest.raises(WriteError, match=r"cannot write .*x: Permission denied"):
        write_bytes(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old" and files(tmp_path) == ["x"]


def test_link_and_mode_are_kept(tmp_path):
    target = write_bytes(tmp_path / "target", b"old")
    target.chmod(0o640)
    (tmp_path / "link").symlink_to(target)
    write_bytes(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == 0o640


@pytest.mark.parametrize("kept", [0, 4, 60, -1])
def test_truncated_tensors_are_reported(tmp_path, kept):
    path = write_tensors(tmp_path / "x.safetensors", {"x": torch.ones(100)})
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ValueError, match=r"x\.safetensors is no readable safetensors file .*; was it cut off\?"):
        read_tensors(path)


def test_foreign_files_are_reported(tmp_path):
    foreign = tmp_path / "x.safetensors"
    torch.save({"x": torch.ones(1)}, foreign)
    with pytest.raises(ValueError, match="is no readable safetensors file"):
        read_tensors(foreign)
    with pytest.raises(FileNotFoundError, match="there is no file"):
        read_tensors(tmp_path / "absent.safetensors")
    run = Store(tmp_path).open(SPEC)
    (run.path / "report.json").write_text('{"top1": 0.')
    with pytest.raises(ValueError, match=r"report\.json is no readable JSON file"):
        run.report()


def test_a_key_of_several_lines_is_named_in_one(tmp_path):
    (tmp_path / "x.json").write_text('{"data": {"a\\nb": 1e999}}')
    with pytest.raises(ValueError, match=r"it\.data\.'a\\nb' is inf, which JSON cannot hold") as error:
        read_json(tmp_path / "x.json")
    assert len(str(error.value).splitlines()) == 1


def test_read_tensors_outlive_their_file(tmp_path):
    path = write_tensors(tmp_path / "x.safetensors", {"x": torch.ones(4096)})
    tensors, _ = read_tensors(path)
    with open(path, "r+b") as file:
        file.write(b"\0" * path.stat().st_size)
    assert_close(tensors["x"], torch.ones(4096))


@pytest.mark.parametrize("forever", [False, True], ids=["once", "again and again"])
def test_a_file_that_is_replaced_while_it_is_read_is_one_of_both(tmp_path, monkeypatch, forever):
    path = tmp_path / "x.safetensors"
    other = {"a": torch.zeros(50), "b": torch.full((3,), 7.0)}
    write_tensors(path, {"a": torch.ones(50), "loss": torch.ones(20)})
    opened = torch.UntypedStorage.from_file

    def late(*args, **options):
        # the header is that of the old file by now
        if not forever:
            monkeypatch.setattr(torch.UntypedStorage, "from_file", opened)
        write_tensors(path, other)
        return opened(*args, **options)

    monkeypatch.setattr(torch.UntypedStorage, "from_file", late)
    if forever:
        with pytest.raises(ValueError, match="is replaced faster than it can be read; wait for whoever writes it$"):
            read_tensors(path)
        return
    got, _ = read_tensors(path)
    assert got.keys() == other.keys() and all(torch.equal(got[name], other[name]) for name in other)


def test_report_refuses_nan(tmp_path):
    with pytest.raises(ValueError, match=r"report\.loss is nan"):
        Store(tmp_path).open(SPEC).save_report({"loss": float("nan")})


def test_json_is_readable_by_others(tmp_path):
    path = write_json(tmp_path / "x.json", {"b": 1, "a": [True, None, "é"]})
    assert json.loads(path.read_text("utf-8")) == {"b": 1, "a": [True, None, "é"]}


def test_check_writable_leaves_nothing_and_refuses_what_a_write_would(tmp_path) -> None:
    check_writable(tmp_path / "new" / "x.json")
    assert not (tmp_path / "new").exists()
    (tmp_path / "file").touch()
    (tmp_path / "new").mkdir()
    for target in (tmp_path / "file" / "x.json", tmp_path / "new"):
        with pytest.raises(WriteError, match="cannot write"):
            check_writable(target)


@pytest.mark.parametrize("name", ["OURO_HOME", None])
def test_an_unusable_home_is_named(tmp_path, monkeypatch, name):
    """A file where the folder should be: nobody may write below it, not even root."""
    (tmp_path / "file").touch()
    if name:
        monkeypatch.setenv(name, str(tmp_path / "file"))
    else:
        monkeypatch.delenv("OURO_HOME", raising=False)
        monkeypatch.setattr(store.Path, "home", lambda: tmp_path / "file")
    with pytest.raises(WriteError) as caught:
        Store().open(SPEC)
    place = f"OURO_HOME, {tmp_path / 'file'}," if name else "the cache (OURO_HOME is not set), "
    assert str(caught.value).startswith(f"cannot keep runs in {place}")
    assert str(caught.value).endswith("(Not a directory); set OURO_HOME to a folder that can be written")
    assert files(tmp_path) == ["file"]


def test_a_run_that_is_written_elsewhere_needs_no_home(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("OURO_HOME", str(tmp_path / "file"))
    run = Store().open(SPEC, needed=False)
    run.save_tensors({"x": torch.ones(2)}, "chunk-0000")
    assert run.chunks() == ["chunk-0000"] and tmp_path not in run.path.parents
    (line,) = caplog.messages
    assert line == (
        f"cannot keep runs in OURO_HOME, {tmp_path / 'file'}, (Not a directory): stopped, this run cannot go on later"
    )


def test_a_probe_leaves_no_folder(tmp_path):
    check_writable(tmp_path / "new" / "deeper" / "x.json")
    assert not files(tmp_path)
