"""Each shipped plugin provides what its manifest declares, as the gateway's contract has it."""

from __future__ import annotations

import importlib
import json
import sys
import tomllib
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest

from annexe.contract.specs import definition_of
from annexe.manifest import load_manifest
from annexe.manifest.versions import is_in_range
from annexe.testing import PluginRunner
from annexe_sdk import Reject
from examples.gateway.contract import Chat, UsageReport

ROOT = Path(__file__).resolve().parents[3]
FOLDERS = sorted(path.parent for path in ROOT.glob("plugins/*/plugin.toml"))


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def folder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Path:
    path: Path = request.param
    monkeypatch.setattr(sys, "path", [*sys.path, str(path)])
    return path


def test_plugin_provides_what_it_declares(folder: Path) -> None:
    manifest = load_manifest(folder).manifest
    provided = importlib.import_module(manifest.runtime.entry).plugin.provides()
    hooks = definition_of(Chat).hooks
    assert manifest.id == folder.name
    assert {name: hook["kind"] for name, hook in provided["hooks"].items()} == {
        name: str(hooks[name.removeprefix("chat.")].kind) for name in manifest.provides.hooks
    }
    assert all(hook.revision == definition_of(Chat).revision for hook in manifest.provides.hooks.values())
    assert set(provided["extensions"]) == set(manifest.provides.extensions)
    assert set(provided["services"]) == set(manifest.provides.services)
    for point in provided["extensions"].values():
        assert set(point["methods"]) == set(definition_of(UsageReport).methods)


def test_service_has_methods_for_all_that_is_declared_idempotent_and_each_caller_its_contract() -> None:
    manifests = [load_manifest(folder).manifest for folder in FOLDERS]
    (offer,) = [one.provides.services["tokenizer"] for one in manifests if one.provides.services]
    contract = (ROOT / "plugins/tokenizer/tokenizer/contract.py").read_text()
    assert all(f"def {method}(" in contract for method in offer.idempotent)
    callers = {one.id: one for one in manifests if one.requires.services}
    assert sorted(callers) == ["rate-limiter", "usage-meter"]
    for plugin, manifest in callers.items():
        assert is_in_range(offer.version, manifest.requires.services["tokenizer"].version)
        assert "services:tokenizer" in manifest.permission_set()
        assert (ROOT / "plugins" / plugin / plugin.replace("-", "_") / "tokenizer.py").read_text() == contract


def test_plugins_work_with_the_tokenizer_that_is_shipped() -> None:
    exchange: dict[str, Any] = {"request": {"model": "m", "messages": [{"role": "user", "content": "one two"}]}, "source": "upstream"}
    exchange["answer"] = {"model": "m", "choices": [{"message": {"role": "assistant", "content": "three"}}]}
    with PluginRunner(ROOT / "plugins/tokenizer") as tokenizer:
        services = {"tokenizer": tokenizer.service("tokenizer")}
        with PluginRunner(ROOT / "plugins/usage-meter", services=services) as meter:
            meter.call("chat.on_answered", exchange)
            [row] = meter.extension("usage-report").totals("")
        assert (row["prompt_tokens"], row["completion_tokens"]) == (6, 1)
        limits = {"requests": 9, "tokens_per_minute": 5}
        with (
            PluginRunner(ROOT / "plugins/rate-limiter", config=limits, services=services) as limiter,
            pytest.raises(Reject, match="About 6 tokens; at most 5"),
        ):
            limiter.call("chat.on_request", exchange["request"])


def test_plugin_config_of_the_demo_and_of_nobody_fits_its_schema(folder: Path) -> None:
    schema: dict[str, Any] = json.loads((folder / "config.schema.json").read_text())
    settings = tomllib.loads((ROOT / "examples/gateway/settings.toml").read_text())
    validator = jsonschema_rs.validator_for(schema)
    validator.validate({})
    validator.validate(settings.get(folder.name, {}))
    assert not validator.is_valid({"unheard-of": 1})


def test_settings_of_the_demo_are_for_shipped_plugins() -> None:
    settings = tomllib.loads((ROOT / "examples/gateway/settings.toml").read_text())
    assert set(settings) <= {folder.name for folder in FOLDERS}


LONG_OR_ODD = [pytest.param(text, id=repr(text[:4])) for text in ("\U0001f600" * 1_000, "/" * 1_000, "\x9f\n%/", "\U0001f600" * 100)]


@pytest.mark.parametrize("key", LONG_OR_ODD)
@pytest.mark.parametrize("model", LONG_OR_ODD)
def test_usage_of_any_key_and_model_is_counted(key: str, model: str) -> None:
    exchange = {"request": {"model": model, "messages": []}, "source": "upstream"}
    exchange["answer"] = {"model": model, "choices": [], "usage": {"prompt_tokens": 2, "completion_tokens": 3}}
    with PluginRunner(ROOT / "plugins/usage-meter", config={"prices": {"*": {"input": 1, "output": 1}}}) as runner:
        for _ in range(2):
            runner.request(key=key).call("chat.on_answered", exchange)
        [row] = runner.extension("usage-report").totals(key)
        assert (row["requests"], row["prompt_tokens"], row["completion_tokens"], row["cost"]) == (2, 4, 6, 0.00001)
        assert runner.extension("usage-report").totals("") == [row]


@pytest.mark.parametrize("key", LONG_OR_ODD)
def test_requests_of_any_key_are_limited(key: str) -> None:
    with PluginRunner(ROOT / "plugins/rate-limiter", config={"requests": 1, "window_s": 3600}) as runner:
        runner.request(key=key).call("chat.on_request", {})
        with pytest.raises(Reject, match="More than 1 requests"):
            runner.request(key=key).call("chat.on_request", {})
        runner.request(key=key + "x").call("chat.on_request", {})
