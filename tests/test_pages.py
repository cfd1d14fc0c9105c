"""Pages for people: short, their links lead somewhere, their commands exist, and what the front page promises is there."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from itertools import product
from pathlib import Path

import pytest
import torch
import typer
import yaml

from ouro import __version__
from ouro.cli import app
from ouro.cli.reference import PAGE, page
from ouro.models import variant
from ouro.paper.ledger import ARTEFACTS
from ouro.registry import GENERATORS, MODELS, QUANTIZERS, TASKS

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *(ROOT / place / "README.md" for place in ("results", "workbench", "notebooks", "kernels")),
         ROOT / "results" / "PAPER.md", PAGE]  # fmt: skip
IDS = [str(path.relative_to(ROOT)) for path in PAGES]
each = pytest.mark.parametrize("path", PAGES, ids=IDS)


def prose(text: str) -> str:
    return re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.DOTALL)


def anchors(path: Path) -> set[str]:
    """What headings are called in addresses, as GitHub makes them."""
    heads = re.findall(r"(?m)^#+ (.+)$", re.sub(r"```.*?```", "", path.read_text("utf-8"), flags=re.DOTALL))
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def test_the_front_page_is_short() -> None:
    lines = (ROOT / "README.md").read_text("utf-8").splitlines()
    assert len(lines) <= 220
    (picture,) = re.findall(r"!\[.+?\]\((.+?)\)", "\n".join(lines))
    assert (ROOT / picture).stat().st_size < 200_000


@each
def test_links_lead_to_what_is_there(path: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", prose(path.read_text("utf-8")))
    for link in links:
        file, _, anchor = link.partition("#")
        if "://" in link:
            continue
        target = (path.parent / file).resolve() if file else path
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


def test_headings_become_addresses() -> None:
    found = anchors(PAGE)
    assert "your-own-model-pictures-and-device" in found and "the-command-line" in found


def commands(path: Path) -> Iterator[str]:
    """Calls of `ouro` in the blocks of a page, without what surrounds them."""
    for block in re.findall(r"(?m)^ *```(?:sh)?\n(.*?)^ *```", path.read_text("utf-8"), flags=re.DOTALL):
        for line in block.splitlines():
            call = re.search(r"(?:^|-m |-- )ouro [a-z].*", line.strip())
            if call:
                yield call[0].removeprefix("-m ").removeprefix("-- ")


@each
def test_commands_and_their_options_exist(path: Path) -> None:
    for call in commands(path):
        _, *words = shlex.split(call, comments=True)
        command = typer.main.get_command(app)
        while hasattr(command, "commands"):
            assert words and words[0] in command.commands, call
            command = command.commands[words.pop(0)]
        known = {word for parameter in command.params for word in parameter.opts} | {"--help"}
        assert {word for word in words if word.startswith("--")} <= known, call


def test_commands_are_found() -> None:
    assert len(list(commands(PAGE))) > 40 and "ouro evaluate small.safetensors" in list(commands(ROOT / "README.md"))


def test_every_command_is_on_its_page() -> None:
    assert page() == PAGE.read_text("utf-8"), "run ouro paper render"
    assert all(f"\n### ouro {' '.join(one.commands[0].split()[1:2])}" in page() for one in ARTEFACTS if one.commands)


def spelled_out(name: str) -> list[str]:
    """vim_{tiny,small} -> vim_tiny, vim_small."""
    parts = [part.split(",") for part in re.split(r"[{}]", name)]
    return ["".join(chosen) for chosen in product(*parts)]


def test_the_front_page_names_all_that_is_registered() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    # a comma only separates inside of braces
    named = {one for name in re.findall(r"`([\w{},]+)`", text) for one in spelled_out(name)}
    judges = {"vim_nano_witness", "vim_micro_cifar10_witness"}
    for registry in (MODELS, QUANTIZERS, GENERATORS):
        assert set(registry) - named <= judges, registry.kind
    assert all(f"| {task} |" in text for task in TASKS)
    families = text.partition("## Families")[2].partition("All agree with")[0]
    listed = {one for name in re.findall(r"`([\w{},]+)`", families) for one in spelled_out(name)}
    assert listed <= set(MODELS) and {name for name in listed if variant(name).embedded} == {
        name for name in listed if "nano" in name or "micro" in name
    }


def test_what_is_cited_is_the_same_everywhere() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    front = (ROOT / "README.md").read_text("utf-8")
    assert cited["cff-version"] == "1.2.0" and cited["version"] == __version__ and cited["license"] == "Apache-2.0"
    assert f"\n## {__version__}" in (ROOT / "CHANGELOG.md").read_text("utf-8")
    titles = [one["title"] for one in cited["references"]]
    assert re.findall(r"title     = \{(.+)\}", front) == titles and len(titles) == 2
    entries = re.findall(r"@inproceedings\{.*?^\}", front, flags=re.DOTALL | re.MULTILINE)
    for one, entry in zip(cited["references"], entries, strict=True):
        names = " and ".join(f"{person['family-names']}, {person['given-names']}" for person in one["authors"])
        assert f"{{{names}}}" in entry and f"{{{one['collection-title']}}}" in entry
        assert f"{{{one['identifiers'][0]['value']}}}" in entry and f"{{{one['year']}}}" in entry


@pytest.mark.slow
def test_the_python_of_the_front_page_runs() -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), flags=re.DOTALL)
    names: dict[str, object] = {}
    exec(re.sub(r"(?m)^   ", "", block), names)
    report, alpha = names["report"], names["alpha"]
    assert report["n"] == 100 and report["top1"] > 0.5
    # what the comment says: the float model is back
    import ouro

    images = ouro.data.normalize(
        ouro.data.load("scenes").images(0, 2)[0], names["model"].info.mean, names["model"].info.std
    )
    with torch.no_grad():
        assert torch.equal(names["model"](images), ouro.create_model("vim_nano", pretrained=True)(images))
    assert alpha.shape[0] == 2 and alpha.shape[-1] == alpha.shape[-2]


def test_supported_pythons_are_the_same_everywhere() -> None:
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    newest = max(int(minor) for minor in re.findall(r"Python :: 3\.(\d+)", project))
    assert f'requires-python = ">=3.10,<3.{newest + 1}"' in project
    words, makefile = f"Python 3.10 to 3.{newest}", (ROOT / "Makefile").read_text("utf-8")
    assert f"(3, 10) <= sys.version_info[:2] < (3, {newest + 1})" in makefile and makefile.count(words) == 2
    assert words in (ROOT / "README.md").read_text("utf-8")
    assert words in (ROOT / "ouro" / "jobs" / "doctor.py").read_text("utf-8")
    found = re.search(r"(?m)^PYTHONS := (.+)$", makefile)
    assert found is not None and {f"python3.{minor}" for minor in range(10, newest + 1)} <= set(found[1].split())
