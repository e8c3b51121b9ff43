"""The files of a new plugin, as text. Nothing is written here.

Everything about hooks and extension points comes from their definitions, so that types in the plugin are those of the application.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, final

from annexe.cli.samples import sample_of
from annexe.contract import (
    ExtensionDefinition,
    HookDefinition,
    HookKind,
    HookSpec,
    MethodDefinition,
    SpecDefinition,
    definition_of,
)
from annexe.contract.stub_types import StubTypes

__all__ = ["Scaffold", "scaffold_for", "scaffold_of"]

_CONFIG_SCHEMA = """\
{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "properties": {
    "log_calls": {
      "type": "boolean",
      "default": true,
      "description": "Log each call."
    }
  },
  "additionalProperties": false
}
"""
_BODIES = {
    HookKind.FILTER: ["    return ctx.unchanged"],
    HookKind.FIRST_RESULT: ["    return None  # let the next plugin try"],
}
_CLASS = re.compile(r"^class (\w+)\(|^(\w+) = TypedDict\(")


@final
@dataclass(frozen=True, slots=True)
class Scaffold:
    """What is to be written.

    Attributes:
        files: Text by path relative to the plugin's folder.
        purposes: What each file or folder is for, in a few words.
        known: Names of all that the contracts open.
    """

    files: dict[str, str]
    purposes: dict[str, str]
    known: frozenset[str] = field(default_factory=frozenset)


def scaffold_for(name: str, kinds: Mapping[str, HookKind]) -> Scaffold:
    """Make a plugin for hooks of which nothing but name and kind is known: their values are anything JSON can hold."""
    contracts = _example_contracts(kinds)
    namespace: dict[str, Any] = {"__name__": "annexe_example_contracts"}
    exec(contracts, namespace)  # noqa: S102 - our own text, from checked names
    specs = {value: "" for value in namespace.values() if isinstance(value, type) and issubclass(value, HookSpec) and value is not HookSpec}
    made = scaffold_of(name, specs, only=frozenset())
    return Scaffold({**made.files, "contracts.py": contracts}, made.purposes, made.known)


def scaffold_of(name: str, contracts: Mapping[type[Any], str], *, only: frozenset[str], python_path: Sequence[str] = ()) -> Scaffold:
    """Make a plugin for an application's contracts.

    Args:
        name: Its id.
        contracts: Hook specs and extension points, with the module each is imported from.
        only: Qualified names of the hooks and extension points to answer; empty: all.
        python_path: Folders in which those modules are, as seen from the plugin's.
    """
    definitions = [definition_of(contract) for contract in contracts]
    hooks = [hook for spec in definitions if isinstance(spec, SpecDefinition) for hook in spec.hooks.values()]
    points = [point for point in definitions if isinstance(point, ExtensionDefinition)]
    known = frozenset([hook.qualified for hook in hooks] + [point.name for point in points])
    hooks = [hook for hook in hooks if not only or hook.qualified in only]
    points = [point for point in points if not only or point.name in only]
    package = _package_of(name)
    types = StubTypes()
    handlers = [_handler(hook, types) for hook in hooks] + [_extension(point, types) for point in points]
    files = {
        "plugin.toml": _manifest(name, package, hooks, points),
        f"{package}/__init__.py": f'"""The {name} plugin."""\n',
        f"{package}/plugin.py": _module(name, package, handlers, types),
        "config.schema.json": _CONFIG_SCHEMA,
        "contracts.py": _imported_contracts(contracts),
        "tests/test_plugin.py": _tests(name, hooks),
        "pytest.ini": _pytest_settings(contracts.values(), python_path),
        "README.md": _readme(name, package, hooks, points),
    }
    if types.lines:
        files[f"{package}/contract_types.py"] = _types(types)
    purposes = {
        "plugin.toml": "what it is, what it answers and what it asks for",
        f"{package}/plugin.py": "its code",
        "config.schema.json": "what can be configured",
        "contracts.py": "what the application opens; for tests and annexe dev",
        "tests/": "its tests",
        "README.md": "what it does, for those who install it",
    }
    return Scaffold(files, purposes, known)


def _package_of(name: str) -> str:
    package = name.replace("-", "_")
    # A module of that name would hide Python's own, or be hidden by it.
    return f"{package}_plugin" if package in sys.stdlib_module_names or package in ("annexe", "annexe_sdk", "tests") else package


def _manifest(name: str, package: str, hooks: Iterable[HookDefinition], points: Iterable[ExtensionDefinition]) -> str:
    lines = [
        "manifest-version = 1",
        "",
        "[plugin]",
        f'id = "{name}"',
        'version = "0.1.0"',
        f'name = "{name.replace("-", " ").capitalize()}"',
        'description = "Says in one line what it does."',
        "",
        "[runtime]",
        'kind = "python"',
        f'entry = "{package}.plugin"',
        "",
        "[config]",
        'schema = "config.schema.json"',
    ]
    answered = [f'"{hook.qualified}" = {{ revision = {hook.revision} }}' for hook in hooks]
    filled = [f'"{point.name}" = {{ revision = {point.revision} }}' for point in points]
    lines += ["", "[provides.hooks]", *answered] if answered else []
    lines += ["", "[provides.extensions]", *filled] if filled else []
    asked = ["", "# What it may use is asked for here, and granted by whoever runs it:", "# [permissions]", '# kv = { quota = "1MiB" }']
    return "\n".join([*lines, *asked, ""])


def _module(name: str, package: str, handlers: list[str], types: StubTypes) -> str:
    body = "\n\n\n".join(handlers)
    named = [match[1] or match[2] for line in types.lines if (match := _CLASS.match(line))]
    used = sorted({cls for cls in named if re.search(rf"\b{cls}\b", body)})
    typing = [what for what in ("Any", "Literal") if re.search(rf"\b{what}\b", body)]
    lines = [f'"""The {name} plugin: says in one line what it does."""', "", "from __future__ import annotations", ""]
    if "Iterator[" in body:
        lines.append("from collections.abc import Iterator")
    if used:
        typing.insert(0, "TYPE_CHECKING")
    if typing:
        lines.append(f"from typing import {', '.join(typing)}")
    lines += ["", "from annexe_sdk import Context, Plugin"] if lines[-1] else ["from annexe_sdk import Context, Plugin"]
    if used:
        lines += ["", "if TYPE_CHECKING:", f"    from {package}.contract_types import {', '.join(used)}"]
    lines += ["", "plugin = Plugin()", "", "", body, "", "", 'if __name__ == "__main__":', "    plugin.run()", ""]
    return "\n".join(lines)


def _handler(hook: HookDefinition, types: StubTypes) -> str:
    params = ", ".join([*_params(hook, types), "ctx: Context"])
    lines = [f'@plugin.{hook.kind}("{hook.qualified}")']
    if hook.kind is HookKind.STREAM_FILTER:
        assert hook.stream_out is not None
        item = types.expression(hook.stream_out.schema())
        first = hook.params[0].name
        body = ['    if ctx.config.get("log_calls", True):', f'        ctx.log.info("{hook.name} was called")', f"    yield from {first}"]
        return "\n".join([*lines, f"def {hook.name}({params}) -> Iterator[{item}]:", *body])
    # A filter may also give ctx.unchanged, which has no type of its own.
    result = "Any" if hook.kind is HookKind.FILTER else "None" if hook.result is None else types.expression(hook.result.schema())
    body = ['    if ctx.config.get("log_calls", True):', f'        ctx.log.info("{hook.name} was called")', *_BODIES.get(hook.kind, [])]
    return "\n".join([*lines, f"def {hook.name}({params}) -> {result}:", *body])


def _extension(point: ExtensionDefinition, types: StubTypes) -> str:
    lines = [
        f'@plugin.extension("{point.name}")',
        f"class {point.name.title().replace('-', '')}:",
        '    """Answers the methods of the extension point."""',
    ]
    for method in point.methods.values():
        result = "None" if method.result is None else types.expression(method.result.schema())
        if method.stream_out is not None:
            result = f"Iterator[{types.expression(method.stream_out.schema())}]"
        params = ", ".join(["self", *_params(method, types), "ctx: Context"])
        lines += ["", f"    def {method.name}({params}) -> {result}:", f'        raise NotImplementedError("{point.name}.{method.name}")']
    return "\n".join(lines)


def _params(method: HookDefinition | MethodDefinition, types: StubTypes) -> list[str]:
    kinds = [(param, types.expression(param.type.schema())) for param in method.params]
    return [f"{param.name}: {f'Iterator[{kind}]' if param.is_stream else kind}" for param, kind in kinds]


def _types(types: StubTypes) -> str:
    body = "\n".join(types.lines)
    used = [name for name in ("Any", "Literal", "NotRequired", "TypedDict") if re.search(rf"\b{name}\b", body)]
    head = '"""The types of the application, as a plugin sees them. Generated by `annexe new`."""'
    return "\n".join([head, "", "from __future__ import annotations", "", f"from typing import {', '.join(used)}", body, ""])


def _example_contracts(kinds: Mapping[str, HookKind]) -> str:
    lines = [
        '"""What an application might open, so that this plugin can be run and tested by itself. Replace it by your application\'s own."""',
        "",
        "from collections.abc import AsyncIterator",
        "from typing import Any",
        "",
        "from annexe import HookSpec, hook",
    ]
    for spec in dict.fromkeys(name.partition(".")[0] for name in kinds):
        lines += ["", "", f'class {spec.title().replace("-", "")}(HookSpec, name="{spec}", revision=1):']
        for name, kind in kinds.items():
            of, _, hook = name.partition(".")
            if of == spec:
                lines += [f"    @hook.{kind}", f"    {_example_signature(hook, kind)}", ""]
        lines.pop()
    if HookKind.STREAM_FILTER not in kinds.values():
        lines.remove("from collections.abc import AsyncIterator")
    return "\n".join([*lines, ""])


def _example_signature(name: str, kind: HookKind) -> str:
    match kind:
        case HookKind.STREAM_FILTER:
            return f"def {name}(self, items: AsyncIterator[Any]) -> AsyncIterator[Any]: ..."
        case HookKind.FILTER:
            return f"async def {name}(self, value: Any) -> Any: ..."
        case HookKind.FIRST_RESULT:
            return f"async def {name}(self, value: Any) -> Any | None: ..."
        case _:
            return f"async def {name}(self, value: Any) -> None: ..."


def _imported_contracts(contracts: Mapping[type[Any], str]) -> str:
    lines = ['"""What the application opens to plugins: for tests and `annexe dev`. The application must be importable for them."""', ""]
    by_module: dict[str, list[str]] = {}
    for contract, module in contracts.items():
        by_module.setdefault(module, []).append(contract.__name__)
    lines += [f"from {module} import {', '.join(sorted(names))}" for module, names in sorted(by_module.items())]
    return "\n".join([*lines, "", f"__all__ = [{', '.join(repr(contract.__name__) for contract in contracts)}]".replace("'", '"'), ""])


def _pytest_settings(modules: Iterable[str], python_path: Sequence[str]) -> str:
    folders = list(map(shlex.quote, python_path))
    # The application's own contracts.py would be hidden by the plugin's, which imports it.
    seen = [*folders, "."] if "contracts" in modules else [".", *folders]
    return f"[pytest]\ntestpaths = tests\npythonpath = {' '.join(seen)}\n"


def _tests(name: str, hooks: list[HookDefinition]) -> str:
    lines = [
        f'"""Tests of {name}. The fixtures come with annexe: `annexe_plugin` runs it in memory, `annexe_host` under a real host."""',
        "",
        "from annexe import SyncHost",
        "from annexe.testing import PluginRunner",
    ]
    for hook in hooks:
        lines += ["", "", *_test(hook)]
    lines += ["", "", "def test_it_starts_in_a_process_of_its_own(annexe_host: SyncHost) -> None:"]
    return "\n".join([*lines, f'    assert annexe_host.plugin("{name}").state == "ready"', ""])


def _test(hook: HookDefinition) -> list[str]:
    values = [_literal(sample_of(param.type.schema())) for param in hook.params if not param.is_stream]
    lines = [f"def test_{re.sub('[.-]', '_', hook.qualified)}(annexe_plugin: PluginRunner) -> None:"]
    if hook.kind is HookKind.STREAM_FILTER:
        assert hook.stream_in is not None
        sent = ", ".join([f'"{hook.qualified}"', "items", *values])
        lines += [f"    items = [{_literal(sample_of(hook.stream_in.schema()))}]", f"    assert annexe_plugin.stream({sent}) == items"]
    elif hook.kind is HookKind.FILTER:
        sent = ", ".join([f'"{hook.qualified}"', "value", *values[1:]])
        lines += [f"    value = {values[0]}", f"    assert annexe_plugin.call({sent}) == value"]
    else:
        sent = ", ".join([f'"{hook.qualified}"', *values])
        lines += [f"    assert annexe_plugin.call({sent}) is None"]
    return [*lines, '    assert annexe_plugin.logs[0].level == "info"']


def _literal(value: Any) -> str:
    text = repr(value)
    return text if '"' in text else text.replace("'", '"')


def _readme(name: str, package: str, hooks: list[HookDefinition], points: list[ExtensionDefinition]) -> str:
    answers = [f"* `{hook.qualified}` ({hook.kind})" for hook in hooks] + [f"* extension point `{point.name}`" for point in points]
    return "\n".join(
        [
            f"# {name}",
            "",
            "Says in one line what it does.",
            "",
            "It answers:",
            "",
            *answers,
            "",
            "It asks for nothing. Its configuration is described in `config.schema.json`.",
            "",
            "## Working on it",
            "",
            f"The code is in `{package}/plugin.py`. `pytest` runs its tests; `annexe dev .` runs it in a host that starts it again",
            "whenever you save.",
            "",
        ]
    )
