"""Class names: in the order of the head, each once, or one line that says what is wrong."""

import pytest

from ouro.data.names import read_names


@pytest.mark.parametrize(
    ("name", "content", "names"),
    [
        ("names.txt", "bee\n wasp \r\nfly\n\n", ("bee", "wasp", "fly")),
        # as Windows writes text
        ("names.txt", "\ufeffbee\nwasp", ("bee", "wasp")),
        ("names.json", '["bee", "wasp"]', ("bee", "wasp")),
        ("index.json", '{"1": "wasp", "0": "bee"}', ("bee", "wasp")),
        ("index.json", '{"0": ["n01", "crane"], "1": ["n02", "goldfish"], "2": ["n03", "crane"]}',
         ("crane (n01)", "goldfish", "crane (n03)")),
    ],
)  # fmt: skip
def test_names_are_read_in_their_order(tmp_path, name, content, names) -> None:
    (tmp_path / name).write_text(content, "utf-8", newline="")
    assert read_names(tmp_path / name) == names


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("names.txt", "bee\n\nwasp", "line 2 of {} is empty, and names behind it would be those of other classes"),
        ("names.txt", " \n", "{} is empty; give a text file with a name a line, or JSON, a list of names"),
        ("names.txt", "bee\nwasp\nbee", "{} has 'bee' 2 times; give each class a name of its own"),
        ("names.json", '["bee", "bee"]', "{} has 'bee' 2 times"),
        # a class that is missing would give its number to the next one
        (
            "names.json",
            '{"0": "bee", "2": "wasp"}',
            r"{} holds no class names \(its keys are not the numbers 0 to 1\); give",
        ),
        ("names.json", '{"bee": 1}', r"{} holds no class names \(its keys are not the numbers 0 to 0\)"),
        ("names.json", "[1, 2]", r"{} holds no class names \('1' is no name\)"),
        ("names.json", '"bee"', r"{} holds no class names \(it is neither a list nor an object\)"),
        ("names.json", "bee", r"{} holds no class names \(Expecting value"),
        ("names.json", "[" * 100_000, r"{} holds no class names \(RecursionError\)"),
    ],
)
def test_what_is_no_list_of_names_is_one_line(tmp_path, name, content, words) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=f"^{words.format(name)}") as error:
        read_names(tmp_path / name, name)
    assert "\n" not in str(error.value)


def test_what_cannot_be_read_says_so(tmp_path) -> None:
    (tmp_path / "names.txt").write_bytes(b"\xff\xfe\x00b")
    for path, why in ((tmp_path / "gone.txt", "FileNotFoundError"), (tmp_path / "names.txt", "UnicodeDecodeError")):
        with pytest.raises(ValueError, match=rf"^{path} holds no class names \({why}\); give"):
            read_names(path)
    with pytest.raises(ValueError, match=r"^/dev/zero holds no class names \(/dev/zero is no file\)"):
        read_names("/dev/zero")
