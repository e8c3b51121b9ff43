"""The repository keeps its own rules: what no other tool checks."""

from __future__ import annotations

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from annexe import errors
from scripts import generate_docs, run_gate

ROOT = Path(__file__).resolve().parents[2]
SOURCES = (ROOT / "src" / "annexe", ROOT / "sdk" / "python" / "src" / "annexe_sdk")
MODULES = sorted(path for source in SOURCES for path in source.rglob("*.py"))
ADRS = generate_docs.adrs()

# Why a module may be longer than 400 lines.
MAX_LINES = 400
LONGER_WITH_REASON: dict[str, str] = {
    "src/annexe/errors.py": "the whole tree of errors is read in one place",
    "src/annexe/channel/connection.py": "the life of a call is read in one place; slots, backlog, alarm and what comes in are elsewhere",
    "src/annexe/supervision/supervisor.py": "one task lives the plugin's life; instances, starts, successions, guests are elsewhere",
    "sdk/python/src/annexe_sdk/session.py": "what each side owes the other is one account; the rest is elsewhere",
    "src/annexe/host/host.py": "most of it is what users read: arguments and methods of Host with their docstrings",
}

# Alembic imports revisions by path and reads names it prescribes (revision, upgrade, …).
_MIGRATION = re.compile(r"/migrations/(.*/)?(env|r?\d{4}_\w+)\.py$")

# What a pure module may not import: it would read a clock, touch files, start or wait for something, or draw by chance.
IMPURE = {"asyncio", "fcntl", "http.client", "logging", "os", "pathlib", "random", "resource", "secrets", "select", "shutil", "signal"}
IMPURE |= {"socket", "sqlalchemy", "sqlite3", "subprocess", "tempfile", "threading", "time", "urllib.request"}
IMPURE_WITH_REASON = {
    ("src/annexe/ids.py", "secrets"): "new ids are drawn; what a name may look like is pure",
    ("src/annexe/host/denials.py", "pathlib"): "PurePosixPath knows names alone",
}

# A person's home on some machine. Examples in texts use these names.
_HOME = re.compile(r"/(?:home|Users)/(?!(?:user|you|me|alice|bob|ann|app|annexe)\b)[a-z][\w.-]*")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tracked_texts() -> Iterator[tuple[Path, str]]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        path = ROOT / name
        try:
            yield path, path.read_text()
        except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
            continue


def is_public(path: Path) -> bool:
    inner = [part for part in path.relative_to(ROOT).with_suffix("").parts if part != "__init__"]
    return not any(part.startswith("_") for part in inner) and not _MIGRATION.search(path.as_posix())


def defined_names(tree: ast.Module) -> set[str]:
    """Return the public names a module makes itself."""
    names: set[str] = set()
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.Assign) and not is_type_parameter(node.value):
            names |= {name.id for target in node.targets for name in ast.walk(target) if isinstance(name, ast.Name)}
    # The SDK sets TYPE_CHECKING itself: importing typing costs a plugin 7 ms.
    return {name for name in names if not name.startswith("_")} - {"TYPE_CHECKING"}


def is_type_parameter(value: ast.expr) -> bool:
    return isinstance(value, ast.Call) and isinstance(value.func, ast.Name) and value.func.id in ("TypeVar", "ParamSpec")


def imported_names(tree: ast.Module) -> set[str]:
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom | ast.Import)]
    return {(alias.asname or alias.name).split(".")[0] for node in imports for alias in node.names}


def exported_names(tree: ast.Module) -> list[str] | None:
    for node in tree.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(isinstance(target, ast.Name) and target.id == "__all__" for target in targets):
                return [str(name) for name in ast.literal_eval(node.value)]
    return None


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_has_a_docstring(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text())), f"{name_of(path)} does not say what it is for"


@pytest.mark.parametrize("path", [path for path in MODULES if is_public(path)], ids=name_of)
def test_public_module_exports_exactly_its_public_names(path: Path) -> None:
    tree = ast.parse(path.read_text())
    exported = exported_names(tree)
    if exported is None:
        assert path.name == "__init__.py" and not defined_names(tree) and not imported_names(tree), f"{name_of(path)} has no __all__"
        return
    assert len(exported) == len(set(exported)), "a name stands twice in __all__"
    missing = defined_names(tree) - set(exported)
    lazy = any(isinstance(node, ast.FunctionDef) and node.name == "__getattr__" for node in tree.body)
    unknown = set() if lazy else set(exported) - defined_names(tree) - imported_names(tree) - {"__version__"}
    assert not missing and not unknown, f"__all__ of {name_of(path)}: missing {sorted(missing)}, not there {sorted(unknown)}"


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_module_over_400_lines_has_a_reason(path: Path) -> None:
    lines = len(path.read_text().splitlines())
    assert lines <= MAX_LINES or name_of(path) in LONGER_WITH_REASON, f"{name_of(path)} has {lines} lines"


@pytest.mark.parametrize("path", run_gate.pure_modules(), ids=name_of)
def test_pure_module_imports_nothing_that_acts(path: Path) -> None:
    imports = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ImportFrom | ast.Import)]
    modules = {alias.name if isinstance(node, ast.Import) else node.module or "" for node in imports for alias in node.names}
    assert {name for name in modules & IMPURE if (name_of(path), name) not in IMPURE_WITH_REASON} == set()


def test_reasons_for_long_modules_are_still_needed() -> None:
    stale = [name for name in LONGER_WITH_REASON if not (ROOT / name).exists() or len((ROOT / name).read_text().splitlines()) <= MAX_LINES]
    assert not stale


def test_every_error_is_exported_and_documented() -> None:
    page = (ROOT / "docs" / "reference" / "errors.md").read_text()
    defined = [value for value in vars(errors).values() if isinstance(value, type) and issubclass(value, Exception)]
    assert len(defined) > 30
    for error in defined:
        assert error.__name__ in errors.__all__
        assert f"\n## {error.__name__}\n" in page, f"{error.__name__} is not on the page of errors; run: make docs"


def test_every_error_has_a_code_of_its_own() -> None:
    by_code: dict[str, list[str]] = {}
    for _, error in generate_docs.walk(errors.AnnexeError):
        by_code.setdefault(error.code, []).append(error.__name__)
    assert {code: names for code, names in by_code.items() if len(names) > 1} == {}
    assert all(re.fullmatch(r"[a-z]+(-[a-z]+)*", code) for code in by_code)


@pytest.mark.parametrize("path", generate_docs.PAGES, ids=name_of)
def test_generated_page_is_current(path: Path) -> None:
    assert generate_docs.differences(path, generate_docs.PAGES[path]()) == []


def test_links_between_documents_lead_somewhere() -> None:
    assert [f"{name_of(path)}: {link}" for path in generate_docs.texts() for link in generate_docs.broken_links(path)] == []


def test_broken_links_are_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# Here it is\n[a](gone.md) [b](page.md#here-it-is) [c](#not-here) [d](https://example.org) `[e](code.md)`\n\n[f]: lost.md\n"
    )
    assert generate_docs.broken_links(page) == ["gone.md", "#not-here", "lost.md"]


@pytest.mark.parametrize("path", ADRS, ids=name_of)
def test_decision_has_number_title_and_sections(path: Path) -> None:
    text = path.read_text()
    assert re.match(rf"# (ADR-)?{path.name[:4]}\b", text), f"{path.name} does not begin with its number"
    headings = [line.removeprefix("## ").split()[0] for line in text.splitlines() if line.startswith("## ")]
    assert [heading for heading in headings if heading in ("Context", "Choice", "Consequences")] == ["Context", "Choice", "Consequences"]


def test_decisions_have_numbers_of_their_own() -> None:
    numbers = [path.name[:4] for path in ADRS]
    assert len(numbers) == len(set(numbers)) > 0


def test_tracked_files_name_no_folder_of_a_developer() -> None:
    found = [f"{name_of(path)}: {match[0]}" for path, text in tracked_texts() for match in _HOME.finditer(text)]
    found += [f"{name_of(path)}: {ROOT}" for path, text in tracked_texts() if f"{ROOT}/" in text]
    assert found == []


def test_tracked_files_hold_nothing_that_is_made() -> None:
    made = re.compile(r"(^|/)(__pycache__|\.venv[^/]*|dist|node_modules|\.mypy_cache|\.ruff_cache)/|\.pyc$|\.db$|\.sock$")
    assert [name_of(path) for path, _ in tracked_texts() if made.search(name_of(path))] == []
