"""What README and docs show, runs."""

import re
import shlex
import warnings
from pathlib import Path

import pytest

from wm_vec.cli import main

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
TRAINING = "30_000), n_steps=4_000"
"""What the README trains for; minutes, so that the test takes less."""
SMALL = {
    "train": "--transitions 800 --steps 20 --no-check",
    "check": "--transitions 100 --starts 2 --horizon 2",
    "rollout": "--num-envs 4 --steps 5",
}


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.long] if page.name == "scale-out.md" else []) for page in PAGES],
    ids=lambda page: page.name,
)
def test_code_blocks_run_one_after_another(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict = {"__name__": "__main__"}
    text = page.read_text()
    assert text.count(TRAINING) == (page.name == "README.md")
    with warnings.catch_warnings(record=True) as caught:
        for block in BLOCK.findall(text.replace(TRAINING, "800), n_steps=20")):
            exec(compile(block, str(page), "exec"), names)
    assert not [w for w in caught if page.name == "README.md" and "transitions" in str(w.message)], "poor data"


def test_the_commands_of_the_readme_run_one_after_another(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^wm-vec (\w+)(.*)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert [name for name, _ in commands] == ["train", "check", "rollout"]
    for name, arguments in commands:
        assert main([name, *shlex.split(arguments, comments=True), *SMALL[name].split()]) == 0
    assert "warning" not in capsys.readouterr().err


def test_the_readme_opens_with_the_two_commands_and_has_code():
    text = (ROOT / "README.md").read_text()
    assert text.index("make demo") < text.index("make test") < text.index("```python")
    assert len(BLOCK.findall(text)) >= 3
    assert len(text.splitlines()) <= 130


def test_the_picture_of_the_readme_is_small():
    (picture,) = re.findall(r"!\[[^]]+\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    content = (ROOT / picture).read_bytes()
    assert content.startswith(b"\x89PNG")
    assert len(content) < 150_000


def test_the_pictures_of_the_page_about_them_are_small_and_what_its_code_writes():
    text = (ROOT / "docs" / "pictures.md").read_text()
    shown = re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)
    assert len(shown) >= 4
    for name in shown:
        content = (ROOT / "docs" / name).read_bytes()
        assert content.startswith(b"GIF89a" if name.endswith("gif") else b"\x89PNG")
        assert len(content) < (400_000 if name.endswith("gif") else 150_000)
        assert any(f'"{name}"' in block for block in BLOCK.findall(text)), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!http)([^)#]+)\)", page.read_text()):
        assert (page.parent / target).exists(), target


def test_the_benchmark_page_says_what_was_measured():
    from benchmarks.report import PAGE, page

    assert PAGE.read_text() == page(), "run `python -m benchmarks.report`"
