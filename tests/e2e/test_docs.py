"""What the pages of the documentation show is true: tutorials and how-tos are done, samples are read by the code they are for."""

from __future__ import annotations

import ast
import json
import shlex
import tomllib
from pathlib import Path

import click
import pytest

from annexe.cli.app import cli
from annexe.errors import ManifestError
from annexe.manifest import parse_manifest
from annexe.trust.policy import parse_policy
from tests.support.pages import ROOT, Block, blocks_of, commands_of, reader_in

DOCS = ROOT / "docs"
DONE = sorted([*(DOCS / "tutorial").glob("*.md"), *(DOCS / "how-to").glob("*.md")])
PAGES = [
    ROOT / "README.md",
    ROOT / "sdk" / "python" / "README.md",
    *sorted(DOCS.glob("*/*.md")),
    *sorted((ROOT / "examples").glob("*/*.md")),
]
BLOCKS = [block for page in PAGES if "adr" not in page.parts for block in blocks_of(page)]


def of(*languages: str) -> list[object]:
    return [pytest.param(block, id=str(block)) for block in BLOCKS if block.language in languages]


@pytest.mark.timeout(240)
@pytest.mark.parametrize("page", [pytest.param(page, id=page.stem) for page in DONE])
def test_page_can_be_done_as_it_says(page: Path, tmp_path: Path) -> None:
    with reader_in(tmp_path) as reader:
        reader.follow(blocks_of(page))


@pytest.mark.parametrize("block", of("python"))
def test_python_compiles(block: Block) -> None:
    # Samples that show a part of a function may await.
    compile(block.text, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


@pytest.mark.parametrize("block", of("toml"))
def test_toml_is_a_manifest_a_policy_or_settings(block: Block) -> None:
    value = tomllib.loads(block.text)
    if "policy-version" in value:
        parse_policy(block.text.replace("sha3-512:…", f"sha3-512:{'0' * 128}").encode(), source=str(block))
        return
    known = {"manifest-version", "plugin", "runtime", "provides", "requires", "permissions", "resources", "sandbox", "config"}
    if not known & set(value):
        return  # settings of a plugin or of an example
    text = block.text
    if "manifest-version" not in value:
        head = '\n[plugin]\nid = "part"\nversion = "1.0.0"\n' if "plugin" not in value else ""
        head += '\n[runtime]\nkind = "python"\nentry = "part"\n' if "runtime" not in value else ""
        text = f"manifest-version = 1\n{head}\n{text}"
    try:
        parse_manifest(text.encode(), source=str(block))
    except ManifestError as error:
        pytest.fail(error.message)


@pytest.mark.parametrize("block", of("json"))
def test_json_is_json(block: Block) -> None:
    try:
        json.loads(block.text)
    except json.JSONDecodeError:  # or one document a line, as in logs
        for line in block.text.splitlines():
            json.loads(line)


@pytest.mark.parametrize("block", of("console", "sh"))
def test_annexe_commands_are_written_right(block: Block) -> None:
    lines = [command.line for command in commands_of(block)] if block.language == "console" else block.text.splitlines()
    for line in lines:
        words = shlex.split(line, comments=True)
        if words and Path(words[0]).name == "annexe":
            check(words[1:], str(block))


def check(words: list[str], where: str) -> None:
    """Have click parse a command as far as it can without running it."""
    command: click.Command = cli
    context = click.Context(command, info_name="annexe")
    while isinstance(command, click.Group):
        assert words, f"{where}: a command is missing"
        found = command.get_command(context, words[0])
        assert found is not None, f"{where}: there is no command {words[0]!r}"
        command, words = found, words[1:]
        context = click.Context(command, info_name=command.name, parent=context)
    try:
        # Files and folders that a sample names need not be here.
        command.make_parser(context).parse_args(args=list(words)) if hasattr(command, "make_parser") else None
    except click.UsageError as error:
        pytest.fail(f"{where}: {error.format_message()}")
