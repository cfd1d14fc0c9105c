"""What a person brought is kept, read by another process, reported when gone, and removed when it is not wanted."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from workbench import workspace
from workbench.workspace import Model, Pictures


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OURO_HOME", str(tmp_path / "home"))
    return tmp_path


def weights(folder: Path, name: str = "bees.pth", content: bytes = b"weights") -> Model:
    """A model of a file that is there."""
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_bytes(content)
    now = path.stat()
    return Model("", "vim_nano", str(path), ("a", "b"), {"family": "vim"}, {"layers": 6}, "digest", now.st_size,
                 now.st_mtime_ns)  # fmt: skip


def test_what_is_added_is_listed(home: Path):
    assert workspace.models() == [] and workspace.pictures() == []
    kept = workspace.add_model(weights(home))
    assert kept.alias == "bees.pth (vim_nano)" and kept.row["name"] == kept.alias and not kept.fault
    assert workspace.model(kept.alias) == kept and workspace.models() == [kept]
    assert workspace.model("vim_nano") is None
    (home / "pictures").mkdir()
    pictures = workspace.add_pictures(Pictures("pictures", str(home / "pictures"), 3, ("x", "y")))
    assert workspace.pictures() == [pictures] and pictures.data == f"folder:{home / 'pictures'}"
    assert workspace.models() == [kept], "one list does not touch the other"


def test_every_model_has_a_name_of_its_own_and_the_same_file_keeps_its_name(home: Path):
    first = workspace.add_model(weights(home / "a"))
    second = workspace.add_model(weights(home / "b"))
    again = workspace.add_model(replace(weights(home / "a"), name="vim_nano", class_names=("c", "d")))
    assert [first.alias, second.alias] == ["bees.pth (vim_nano)", "bees.pth (vim_nano) 2"]
    assert again.alias == first.alias
    assert {entry.alias: entry.class_names for entry in workspace.models()} == {
        first.alias: ("c", "d"),
        second.alias: ("a", "b"),
    }


def test_runs_are_separated_by_their_weights(home: Path):
    kept = workspace.add_model(weights(home))
    other = workspace.add_model(replace(weights(home, "wasps.pth"), class_names=("c", "d")))
    assert workspace.aliases("vim_nano", "digest", ["a", "b"]) == [kept.alias, other.alias]
    assert workspace.aliases("vim_nano", "digest", ["c", "d"]) == [other.alias, kept.alias]
    assert workspace.aliases("vim_nano", "another") == []


def test_what_is_gone_or_changed_is_reported_and_no_error(home: Path):
    kept = workspace.add_model(weights(home))
    os.utime(kept.path, ns=(1, 1))
    assert workspace.models()[0].fault == "bees.pth was changed since it was read; add it again"
    Path(kept.path).unlink()
    assert workspace.models()[0].fault == "bees.pth is no longer where it was; add it again or remove it"
    pictures = workspace.add_pictures(Pictures("none", str(home / "none"), 1))
    assert "no longer there" in workspace.pictures()[0].fault
    workspace.remove_model(kept.alias)
    workspace.remove_pictures(pictures.name)
    assert workspace.models() == [] and workspace.pictures() == []


def test_copies_go_with_their_entry_and_what_was_named_by_its_path_stays(home: Path):
    given = weights(home / "given")
    copy = workspace.keep_model(given.path, "0123")
    kept = workspace.add_model(replace(given, path=str(copy), kept=True))
    named = workspace.add_model(given)
    assert copy.read_bytes() == b"weights" and copy.is_relative_to(home / "home")
    for entry in (kept, named):
        workspace.remove_model(entry.alias)
    assert not copy.exists() and not copy.parent.exists() and Path(given.path).exists()
    folder = workspace.keep_pictures([given.path, given.path])
    assert sorted(path.name for path in folder.iterdir()) == ["bees 2.pth", "bees.pth"]
    workspace.add_pictures(Pictures(workspace.UPLOADED, str(folder), 2, kept=True))
    workspace.remove_pictures(workspace.UPLOADED)
    assert not folder.exists()


@pytest.mark.parametrize("remove", [workspace.remove_model, workspace.remove_pictures])
def test_what_is_not_there_cannot_be_removed(home: Path, remove):
    with pytest.raises(ValueError, match="'x' is not among what you brought; was it removed meanwhile"):
        remove("x")


def test_a_damaged_list_is_set_aside(home: Path, caplog):
    workspace.add_model(weights(home))
    path = workspace.root() / "workspace.json"
    path.write_text(path.read_text()[:-20])
    assert workspace.models() == [] and "was it cut off" in caplog.text
    assert path.with_suffix(".damaged").exists() and not path.exists()
    # an entry that another version wrote costs no other entry
    kept = workspace.add_model(weights(home))
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "models": [{"alias": "old", "file": "x"}, *content["models"]]}))
    assert workspace.models() == [kept]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.pth", None, "there is no file .*none.pth on this machine"),
        ("notes.txt", b"x", "notes.txt does not end as weights do; known: .safetensors, .pth"),
        ("empty.pth", b"", r"empty.pth is empty \(0 bytes\); save it again"),
        (".", None, "is a folder; give the file with the weights"),
    ],
)
def test_what_holds_no_weights_is_refused_before_it_is_read(tmp_path: Path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        workspace.check_model_file(str(tmp_path / name))


def test_a_folder_of_any_name_may_be_gone():
    for path in ("/nowhere", "A" * 5000):
        assert workspace.Pictures("garden", path, 1).fault.startswith("the folder is no longer there")


def test_class_names_are_those_of_a_file_or_none(tmp_path: Path):
    assert workspace.class_names(None) == ()
    (tmp_path / "names.txt").write_text("bee\nwasp\n")
    assert workspace.class_names(str(tmp_path / "names.txt")) == ("bee", "wasp")
    (tmp_path / "names.txt").write_text("bee\n\nwasp\n")
    # where it lies on the server is nobody's business
    with pytest.raises(ValueError, match=r"^line 2 of names\.txt is empty"):
        workspace.class_names(str(tmp_path / "names.txt"))


@pytest.mark.parametrize(
    ("host", "headers", "local"),
    [
        ("127.0.0.1", {}, True),
        ("::1", {}, True),
        ("192.168.1.20", {}, False),
        ("127.0.0.1", {"X-Forwarded-For": "192.168.1.20"}, False),
        ("127.0.0.1", {"forwarded": "for=192.168.1.20"}, False),
        ("testclient", {}, False),
        (None, {}, False),
    ],
)
def test_only_this_machine_names_paths(host, headers, local):
    assert workspace.is_local(host, headers) is local
