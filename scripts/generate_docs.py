"""Write the pages of ``docs/`` that say what the code says already; with ``--check`` only compare, and check links.

A page is here when it would go stale by hand. Each entry of ``PAGES`` is a path and the function that returns its text; the text depends on
the checkout alone, so that two runs give the same bytes.
"""

from __future__ import annotations

import argparse
import difflib
import inspect
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import click

from annexe import errors
from annexe.cli.app import cli
from annexe.cli.exit_codes import EXIT_CODES, OTHER_CODES

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
GENERATED = "<!-- Written by scripts/generate_docs.py (make docs); edits here are lost. -->\n\n"

_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|^\[[^\]]+\]:\s+(\S+)", re.MULTILINE)
_CODE = re.compile(r"^(```|~~~).*?^\1|`[^`\n]*`", re.MULTILINE | re.DOTALL)
_ADR_TITLE = re.compile(r"#\s*(?:ADR[ -]?)?(?:\d{4})?[\s.:-]*(.+)")


# -- docs/reference/errors.md


def errors_page() -> str:
    """Return every error with its place in the tree, its code and its facts."""
    named = [getattr(errors, name) for name in errors.__all__]
    in_order = [cls for _, cls in walk(errors.AnnexeError) if cls in named]
    parts = [
        "# Errors\n\n" + GENERATED,
        "Everything annexe raises on purpose is an `AnnexeError` from `annexe.errors`. Catch by class; the `code` is the same on the\n"
        "wire, in logs and in `--json` output, and stays the same between releases. The facts named here are attributes, and together\n"
        "they are `error.data`; `error.plugin` is the id of the plugin concerned, or None. Wrong use of annexe by your own code is a\n"
        "`ValueError`, `TypeError` or `RuntimeError` as anywhere in Python.\n\n",
        "```\n" + "".join(f"{'    ' * depth}{cls.__name__}\n" for depth, cls in walk(errors.AnnexeError)) + "```\n",
        *(error_section(cls) for cls in in_order),
    ]
    return "".join(parts)


def walk(cls: type[errors.AnnexeError], depth: int = 0) -> Iterator[tuple[int, type[errors.AnnexeError]]]:
    yield depth, cls
    for child in cls.__subclasses__():
        if child.__module__ == errors.__name__ and child.__bases__[0] is cls:
            yield from walk(child, depth + 1)


def error_section(cls: type[errors.AnnexeError]) -> str:
    description, facts = described(cls)
    lines = [f"\n## {cls.__name__}\n", f"code `{cls.code}`, a kind of `{cls.__bases__[0].__name__}`\n", *description]
    if facts:
        lines += ["", *(f"* `{name}`: {text}" for name, text in facts)]
    return "\n".join(lines) + "\n"


def described(cls: type) -> tuple[list[str], list[tuple[str, str]]]:
    """Split a docstring into its prose and the arguments that become facts."""
    prose: list[str] = []
    facts: list[tuple[str, str]] = []
    section = ""
    for line in inspect.cleandoc(cls.__doc__ or "").splitlines():  # Python 3.13 keeps less indentation than 3.11
        if re.fullmatch(r"[A-Z]\w+:", line):
            section = line
        elif not section:
            prose.append(line)
        elif section == "Args:" and (match := re.fullmatch(r" {4}(\w+): (.+)", line)):
            facts.append((match[1], match[2]))
        elif section == "Args:" and facts and line.strip():
            facts[-1] = (facts[-1][0], f"{facts[-1][1]} {line.strip()}")
    while prose and not prose[-1]:
        prose.pop()
    return prose, [fact for fact in facts if cls is errors.AnnexeError or fact[0] != "plugin"]


# -- docs/reference/cli.md


def cli_page() -> str:
    """Return every command with its arguments and options, and every exit code."""
    parts = [
        "# The annexe command\n\n" + GENERATED,
        "`annexe run` is a ready-made host; `annexe new`, `dev` and `schema` are for authors of plugins; `doctor` looks at the machine.\n"
        "All others ask a running host, over its [control socket](control.md): the host of the state directory that `--state` or the\n"
        "variable `ANNEXE_STATE` names. With `--json` a command prints one JSON document (`logs` and `events`: one a line), and its\n"
        "errors are JSON too, on standard error. What plugins wrote is shown with everything escaped that is not printable. Colour is for\n"
        "terminals, and never where `NO_COLOR` is set.\n\n"
        "A `call` to one plugin fails when that plugin gives no result, whatever the hook's policy ([control](control.md#call)).\n"
        "`grant` also starts a plugin that was stopped.\n",
        *(command_section(path, command) for path, command in commands(cli, "annexe") if command is not cli),
        "\n## Exit codes\n\n| code | meaning |\n|---|---|\n",
        *(f"| {code} | {meaning} |\n" for code, meaning in sorted(exit_meanings().items())),
    ]
    return "".join(parts)


def commands(command: click.Command, path: str) -> Iterator[tuple[str, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            inner = command.get_command(context, name)
            if inner is not None:
                yield from commands(inner, f"{path} {name}")


def command_section(path: str, command: click.Command) -> str:
    pieces = command.collect_usage_pieces(click.Context(command))
    text = re.sub(
        r"\x08\n(.*?)(\n\n|\Z)", lambda block: f"```\n{block[1].strip()}\n```\n\n", inspect.cleandoc(command.help or ""), flags=re.DOTALL
    )
    lines = [f"\n## {path}\n", f"    {' '.join([path, *pieces])}\n", text.strip(), ""]
    options = [param for param in command.params if isinstance(param, click.Option)]
    if options:
        lines += ["| option | what |", "|---|---|", *(f"| {option_names(option)} | {option_text(option)} |" for option in options), ""]
    return "\n".join(lines)


def option_names(option: click.Option) -> str:
    value = "" if option.is_flag else f" {option.metavar or option.type.name.upper()}"
    names = [*option.opts, *option.secondary_opts]
    return ", ".join(f"`{name}{value if name == names[-1] else ''}`" for name in names).replace("|", "\\|")


def option_text(option: click.Option) -> str:
    default = option.show_default if isinstance(option.show_default, str) else str(option.default) if option.show_default else ""
    several = " May be given several times." if option.multiple and "several" not in (option.help or "") else ""
    return f"{option.help}{several}{f' Default: {default}.' if default else ''}".replace("|", "\\|")


def exit_meanings() -> dict[int, str]:
    names: dict[int, list[str]] = {}
    for cls, code in EXIT_CODES.items():
        names.setdefault(code, []).append(f"[`{cls.code}`](errors.md#{cls.__name__.lower()})")
    return {code: ", ".join(codes) for code, codes in names.items()} | dict(OTHER_CODES)


# -- docs/adr/README.md


def adr_page() -> str:
    """Return the list of decisions, by number."""
    text = "# Decisions\n\n" + GENERATED
    text += "Each names a choice, what spoke for it and what it costs. [How and when to write one](0001-record-decisions.md).\n\n"
    return text + "".join(f"* [{path.name[:4]}]({path.name}) {adr_title(path)}\n" for path in adrs())


def adrs() -> list[Path]:
    return sorted((DOCS / "adr").glob("[0-9][0-9][0-9][0-9]-*.md"))


def adr_title(path: Path) -> str:
    first = path.read_text().split("\n", 1)[0]
    match = _ADR_TITLE.fullmatch(first)
    return match[1] if match else first


# -- docs/README.md

KINDS = {
    "tutorial": "Learn by doing, from nothing to something that works",
    "how-to": "Get one thing done that you already know you want",
    "reference": "Look up exactly what something is, takes or answers",
    "explanation": "Understand why it is as it is, and what it protects from",
}


def index_page() -> str:
    """Return the index of all pages, by the need they serve."""
    parts = ["# Documentation\n\n" + GENERATED]
    parts.append("Start with the [README](../README.md): the demo, embedding and a plugin in one screen each.\n")
    for folder, need in KINDS.items():
        generated = [path for path in PAGES if path.parent == DOCS / folder]
        pages = sorted({*(DOCS / folder).rglob("*.md"), *generated})
        if pages:
            parts.append(f"\n## {need}\n\n")
            parts += [f"* [{page_title(path)}]({path.relative_to(DOCS).as_posix()})\n" for path in pages]
    parts.append("\n## And\n\n* [What annexe protects from, and what not](../SECURITY.md)\n")
    parts.append("* [Decisions, with their reasons and costs](adr/README.md)\n* [How to work on annexe itself](../CONTRIBUTING.md)\n")
    return "".join(parts)


def page_title(path: Path) -> str:
    text = PAGES[path]() if path in PAGES else path.read_text()
    return text.split("\n", 1)[0].lstrip("# ")


PAGES: dict[Path, Callable[[], str]] = {
    DOCS / "reference" / "errors.md": errors_page,
    DOCS / "reference" / "cli.md": cli_page,
    DOCS / "adr" / "README.md": adr_page,
    DOCS / "README.md": index_page,
}


# -- links


def texts() -> list[Path]:
    """Return every Markdown file that is part of the project."""
    roots = [*ROOT.glob("*.md"), *(path for name in ("docs", "plugins", "examples", "sdk") for path in (ROOT / name).rglob("*.md"))]
    return sorted(path for path in roots if not {"node_modules", ".venv"} & set(path.parts))


def broken_links(path: Path) -> list[str]:
    """Return the relative links of one file that lead nowhere: no such file, or no such heading in it."""
    broken = []
    for match in _LINK.finditer(_CODE.sub("", path.read_text())):
        link = match[1] or match[2]
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        file, _, heading = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (heading and target.suffix == ".md" and heading not in anchors(target)):
            broken.append(link)
    return broken


def anchors(path: Path) -> set[str]:
    """Return the anchors of a page's headings, as code hosts make them."""
    headings = re.findall(r"^#+\s+(.+?)\s*$", re.sub(r"^```.*?^```", "", path.read_text(), flags=re.MULTILINE | re.DOTALL), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


# -- main


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail when a page is stale or a link leads nowhere")
    if not parser.parse_args().check:
        for path, page in PAGES.items():
            path.parent.mkdir(exist_ok=True)
            path.write_text(page())
            print(f"wrote {path.relative_to(ROOT)}")
        return 0
    problems = [problem for path, page in PAGES.items() for problem in differences(path, page())]
    problems += [f"{path.relative_to(ROOT)}: {link} leads nowhere" for path in texts() for link in broken_links(path)]
    print("\n".join(problems) or "docs: generated pages are current, links lead somewhere")
    return 1 if problems else 0


def differences(path: Path, wanted: str) -> list[str]:
    name = str(path.relative_to(ROOT))
    actual = path.read_text() if path.exists() else ""
    if actual == wanted:
        return []
    diff = difflib.unified_diff(actual.splitlines(), wanted.splitlines(), name, "as generated", lineterm="", n=0)
    return [f"{name} is stale; run: make docs", *list(diff)[:20]]


if __name__ == "__main__":
    sys.exit(main())
