"""The pages as a whole: links lead somewhere, every page is in the navigation, every command is understood."""

import re
import shlex
import subprocess
import sys
import tomllib

import pytest
import yaml
from fixtures.pages import PAGES, REPOSITORY, commands_of, heading_anchors

DOCS = REPOSITORY / "docs"


@pytest.fixture(scope="module")
def parsers():
    """The argument parsers of the coordinator's and the sites' commands, as `main` builds them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(DOCS / "generator")
        from reference_commands import find_parser

        return {command: find_parser(package) for command, package in (("server", "server"), ("client", "client"))}


def name(page):
    return str(page.relative_to(REPOSITORY))


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_a_file_and_a_heading(page):
    text = re.sub(r"```.*?```|`[^`]*`", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{name(page)} links to {target}"
        if anchor:
            assert anchor in heading_anchors(file), f"{name(page)} links to {target}"


def navigation(entry):
    """Yield the files of a navigation entry of mkdocs."""
    if isinstance(entry, str):
        yield entry
    else:
        for inner in entry.values() if isinstance(entry, dict) else entry:
            yield from navigation(inner)


def test_every_page_is_in_the_navigation_once():
    listed = list(navigation(yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]))
    pages = [str(path.relative_to(DOCS)) for path in DOCS.rglob("*") if path.suffix in (".md", ".ipynb")]
    assert sorted(listed) == sorted(pages)


def test_no_page_is_reached_by_the_navigation_alone():
    linked = set()
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
            linked.add((page.parent / target).resolve())
    linked.add(DOCS / "index.md")
    assert [name(page) for page in DOCS.rglob("*.md") if page.resolve() not in linked] == []


def test_nothing_of_a_third_party_is_loaded():
    config = yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text(encoding="utf-8"))
    assert config["theme"]["font"] is False
    assert not {"extra_css", "extra_javascript"} & set(config)


COMMANDS = sorted({command for page in PAGES for command in commands_of(page) if "simulate" not in command[:16]})


@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_of_the_coordinator_or_a_site_is_understood(command, parsers):
    program, *words = shlex.split(command)
    parser = parsers[program.removeprefix("flower-")]
    (commands,) = [action.choices for action in parser._actions if action.choices]
    options = [word for word in words[1:] if word.startswith("-")]
    if not words[0].startswith("-") and words[1:] == options:  # a sentence that names the command and its options alone
        assert set(options) <= set(commands[words[0]]._option_string_actions)
    elif words != ["--help"] and words != ["--version"]:
        parser.parse_known_args(words)


@pytest.mark.parametrize("text", ["docs/explanation/architecture.md", "memamba_core/data/__init__.py"])
def test_the_map_of_the_data_room_names_every_module(text):
    room = REPOSITORY / "memamba_core" / "data"
    there = {path.stem for path in room.iterdir() if path.is_dir() or path.suffix == ".py"} - {
        "__init__",
        "__pycache__",
    }
    named = set(re.findall(r"`(\w+)/?`", (REPOSITORY / text).read_text(encoding="utf-8")))
    assert there - named == set()


def test_every_make_target_of_the_pages_exists():
    makefile = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    for page in PAGES:
        named = re.findall(r"(?:`|\$ )make ([a-z][a-z-]*)", page.read_text(encoding="utf-8"))
        assert set(named) <= targets, name(page)


SCHEMAS = {
    "vendor.github-workflows": [".github/workflows/*.yml"],
    "custom.github-workflows-require-timeout": [".github/workflows/*.yml"],
    "vendor.github-issue-forms": [".github/ISSUE_TEMPLATE/[!c]*.yml"],
    "vendor.github-issue-config": [".github/ISSUE_TEMPLATE/config.yml"],
    "vendor.dependabot": [".github/dependabot.yml"],
    "vendor.citation-file-format": ["CITATION.cff"],
}


@pytest.mark.ci_slow
@pytest.mark.parametrize("schema", SCHEMAS)
def test_a_file_for_the_hosting_platform_fits_its_schema(schema):
    files = [str(path) for pattern in SCHEMAS[schema] for path in REPOSITORY.glob(pattern)]
    assert files
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", schema, "--force-filetype", "yaml", *files]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_workflow_runs_what_everybody_runs():
    workflow = yaml.safe_load((REPOSITORY / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    assert [step["run"] for step in workflow["jobs"]["run"]["steps"] if "run" in step] == ["bash .ci/run"]
    assert "make docs" in (REPOSITORY / ".ci" / "run").read_text(encoding="utf-8")


def test_the_citation_names_this_version():
    citation = yaml.safe_load((REPOSITORY / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["version"] == project["version"]
    assert citation["license"] == project["license"]
