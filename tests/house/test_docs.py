"""README and docs agree with the source: tests, links, files, rooms and registered names that they show exist."""

from __future__ import annotations

import importlib.util
import re

from lightning_dynprune.patterns import PATTERNS
from lightning_dynprune.schedules import SCHEDULES
from lightning_dynprune.strategies import STRATEGIES
from lightning_dynprune.thresholds import THRESHOLDS
from tests.docs.documents import DOCS, PAGES, ROOT, name

if importlib.util.find_spec("tomllib"):
    import tomllib
else:
    import tomli as tomllib  # a dependency of pytest on Python 3.10

README = ROOT / "README.md"


def test_every_row_of_the_matrix_names_a_test_that_there_is():
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (DOCS / "compatibility.md").read_text(encoding="utf-8"))
    assert len(named) > 60
    folders = [ROOT / "tests" / folder for folder in ("compatibility", "processes")]
    for file, test in named:
        (path,) = [folder / file for folder in folders if (folder / file).exists()]
        assert f"\ndef {test}(" in path.read_text(encoding="utf-8"), f"{file} has no {test}"


def test_links_and_images_lead_to_files_and_headings_that_exist():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
            if link.startswith("https://"):
                continue
            file, _, heading = link.partition("#")
            target = (page.parent / file).resolve() if file else page
            assert target.exists(), f"{name(page)}: {link}"
            if heading:
                titles = re.findall(r"^#+ (.+)$", target.read_text(encoding="utf-8"), re.MULTILINE)
                anchors = {re.sub(r"[^\w -]", "", title).lower().replace(" ", "-") for title in titles}
                assert heading in anchors, f"{name(page)}: {link}"


def test_files_that_a_page_names_exist():
    for page in PAGES:
        for path in re.findall(r"`((?:tests|benchmarks|docs)/[\w./]+)`", page.read_text(encoding="utf-8")):
            assert (ROOT / path).exists(), f"{name(page)}: {path}"


def test_the_readme_has_two_hundred_lines_at_most():
    assert len(README.read_text(encoding="utf-8").splitlines()) <= 200


def test_the_picture_shows_the_rooms_in_the_order_of_the_contract():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = [c["layers"] for c in contracts if c["type"] == "layers" and c["containers"] == ["lightning_dynprune"]]
    rooms = [room.strip(" ()") for layer in layers for room in re.split("[:|]", layer)]
    assert re.findall(r'class="room">(\w+)<', (DOCS / "rooms.svg").read_text(encoding="utf-8")) == rooms


def test_every_room_has_a_page_in_the_reference():
    rooms = {path.parent.name for path in (ROOT / "lightning_dynprune").glob("*/__init__.py")}
    assert {page.stem for page in (DOCS / "reference").glob("*.md")} == rooms | {"index"}


def test_the_readme_names_every_strategy_threshold_schedule_and_pattern():
    for axis in (STRATEGIES, THRESHOLDS, SCHEDULES, PATTERNS):
        (row,) = re.findall(rf"^\| `{axis.kind}` \|.*$", README.read_text(encoding="utf-8"), re.MULTILINE)
        ours = {part for part in axis.names() if axis[part].__module__.startswith("lightning_dynprune.")}
        assert ours <= set(re.findall(r"`(\w+)`", row)), axis.kind


def test_the_quickstart_lists_every_extra():
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    rows = re.findall(r"^\| (`.*?) \|", (DOCS / "guide" / "quickstart.md").read_text(encoding="utf-8"), re.MULTILINE)
    listed = [extra for row in rows for extra in re.findall(r"`(\w+)`", row)]
    assert sorted(listed) == sorted(settings["project"]["optional-dependencies"])
