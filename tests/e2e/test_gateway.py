"""The demo as its users see it: the gateway in a process of its own, with its plugins, asked by the official client."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import openai
import pytest

from tests.support.tools import level_here

ROOT = Path(__file__).resolve().parents[2]
MODEL = "annexe-echo"
LIMIT = 20
TOKENS = 5_000

SETTINGS = f"""
[rate-limiter]
requests = {LIMIT}
window_s = 3600
tokens_per_minute = {TOKENS}

[usage-meter.prices]
"{MODEL}" = {{ input = 500000, output = 1000000 }}

[chaos]
enabled = true
"""

# As long as the host's own waits are, fifteen faults would take minutes: a plugin comes back soon, and is asked again soon.
IMPATIENT = """
import sys
from functools import partial
import examples.gateway.__main__ as demo
from annexe.dispatch.breaker import BreakerPolicy
from annexe.supervision.policies import Policies
from annexe.supervision.restart import RestartPolicy
restart = RestartPolicy(max_failures=50, first_delay_s=0.2, max_delay_s=0.5)
demo.Host = partial(demo.Host, policies=Policies(restart=restart), breaker=BreakerPolicy(open_s=1.0))
sys.exit(demo.main())
"""

WITHOUT_BUBBLEWRAP = """
import sys
from functools import partial
import annexe.host.host as host
from annexe.launch.offer import OfferFinder
from examples.gateway.__main__ import main
host.ProcessStrategy = partial(host.ProcessStrategy, offers=OfferFinder(bubblewrap=None))
sys.exit(main())
"""

pytestmark = pytest.mark.timeout(90)


@contextmanager
def gateway(folder: Path, *, program: str = "") -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run the demo on a free port, as it is or by a program; give its URL once it listens."""
    settings = folder / "settings.toml"
    settings.write_text(SETTINGS)
    started = ["-c", program] if program else ["-m", "examples.gateway"]
    command = [sys.executable, *started, "--port", "0", "--state", str(folder / "state"), "--settings", str(settings)]
    environment = {name: value for name, value in os.environ.items() if name not in ("UPSTREAM", "PORT")}
    with (folder / "stderr").open("w") as stderr:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=stderr, text=True)
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if match := re.search(r"listens on (http://\S+)/v1", line):
                yield match[1], process
                break
        else:
            pytest.fail(f"the gateway did not start: {(folder / 'stderr').read_text()}")
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="module")
def url(folder: Path) -> Iterator[str]:
    with gateway(folder, program=IMPATIENT) as (url, _process):
        yield url


@pytest.fixture
def client(url: str) -> Iterator[openai.OpenAI]:
    """The official client with a key nobody else uses."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key=uuid4().hex, max_retries=0) as client:
        yield client


def ask(client: openai.OpenAI, text: str, **more: Any) -> str:
    answer = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}], **more)
    return answer.choices[0].message.content or ""


def answered_by(client: openai.OpenAI, text: str, **more: Any) -> str | None:
    raw = client.chat.completions.with_raw_response.create(model=MODEL, messages=[{"role": "user", "content": text}], **more)
    return raw.headers.get("x-answered-by")


def usage(client: openai.OpenAI) -> list[dict[str, Any]]:
    response = httpx.get(f"{client.base_url}usage", headers={"authorization": f"Bearer {client.api_key}"})
    assert response.status_code == 200, response.text
    rows: list[dict[str, Any]] = response.json()["data"]
    return rows


def annexe(folder: Path, *arguments: str) -> str:
    """Run the command on the gateway's host; return what it prints."""
    command = [str(Path(sys.executable).with_name("annexe")), *arguments, "--state", str(folder / "state")]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def states(folder: Path) -> dict[str, str]:
    return {plugin["id"]: plugin["state"] for plugin in json.loads(annexe(folder, "list", "--json"))}


def chaos_is_back(url: str) -> bool:
    """Say whether the chaos plugin takes calls; asked with a key of its own, so that it takes no place of another's window."""
    with openai.OpenAI(base_url=f"{url}/v1", api_key=uuid4().hex, max_retries=0) as client:
        return answered_by(client, "chaos: respond") == "plugin"


def wait_until(condition: Callable[[], bool], *, timeout_s: float = 20.0) -> None:
    """Wait for what an observer does after the answer has gone out."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.1)


def test_greeting_tells_what_to_try_an_escape_before_a_crash(url: str) -> None:
    tried = httpx.get(url).text.partition("\nTry\n")[2].partition("\nLook inside\n")[0]
    assert re.findall(r"chaos: \w+", tried) == ["chaos: escape", "chaos: crash"]


PERSONAL = "Write to ada@example.org or +49 30 1234567, card 4111 1111 1111 1111, IBAN DE89 3704 0044 0532 0130 00"


def test_personal_data_is_hidden_from_the_model_and_restored(client: openai.OpenAI) -> None:
    text = ask(client, PERSONAL)
    assert PERSONAL in text
    assert all(name in text for name in ("EMAIL_1", "PHONE_1", "CARD_1", "IBAN_1"))


def test_personal_data_in_a_stream_is_restored_from_pieces(client: openai.OpenAI) -> None:
    pieces = []
    with client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": PERSONAL}], stream=True) as stream:
        for chunk in stream:
            pieces += [choice.delta.content or "" for choice in chunk.choices]
    text = "".join(pieces)
    # The echo's pieces have 6 characters: no placeholder came in one.
    assert len(pieces) > len(text) / 12
    assert PERSONAL in text
    assert "[" not in text


def test_async_client_gets_the_same_streamed_and_not(url: str) -> None:
    async def scenario() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=uuid4().hex, max_retries=0) as client:
            answer = await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": PERSONAL}])
            stream = await client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": PERSONAL}], stream=True)
            pieces = [choice.delta.content or "" async for chunk in stream for choice in chunk.choices]
            return answer.choices[0].message.content or "", "".join(pieces)

    whole, streamed = asyncio.run(scenario())
    assert whole == streamed
    assert PERSONAL in whole


def test_models_are_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == [MODEL]


def test_stream_with_usage_ends_with_it(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "one two"}], stream=True, stream_options={"include_usage": True}
    )
    last = list(stream)[-1]
    assert last.usage is not None
    assert last.usage.prompt_tokens == 2


def test_too_many_requests_of_one_key_are_refused_and_other_keys_are_not(client: openai.OpenAI, url: str) -> None:
    for number in range(LIMIT):
        ask(client, f"question {number}")
    with pytest.raises(openai.RateLimitError) as caught:
        ask(client, "one more")
    assert caught.value.status_code == 429
    assert caught.value.code == "rate-limited"
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "one more"}], stream=True)
    with openai.OpenAI(base_url=f"{url}/v1", api_key=uuid4().hex, max_retries=0) as other:
        assert "hello" in ask(other, "hello")


def test_cache_answers_the_second_time_at_temperature_0_only(client: openai.OpenAI) -> None:
    assert answered_by(client, PERSONAL, temperature=0) == "upstream"
    wait_until(lambda: answered_by(client, PERSONAL, temperature=0) == "plugin")
    # What was kept holds placeholders: whoever asks gets their own data back.
    assert "bob@example.org" in ask(client, PERSONAL.replace("ada@", "bob@"), temperature=0)
    assert answered_by(client, PERSONAL.replace("ada@", "bob@"), temperature=0) == "plugin"
    assert answered_by(client, PERSONAL, temperature=0.5) == "upstream"
    assert answered_by(client, PERSONAL) == "upstream"


def test_cache_of_one_key_does_not_answer_another(client: openai.OpenAI, url: str) -> None:
    assert answered_by(client, "whose?", temperature=0) == "upstream"
    wait_until(lambda: answered_by(client, "whose?", temperature=0) == "plugin")
    with openai.OpenAI(base_url=f"{url}/v1", api_key=uuid4().hex, max_retries=0) as other:
        assert answered_by(other, "whose?", temperature=0) == "upstream"


def test_usage_adds_up_by_key_and_model(client: openai.OpenAI) -> None:
    assert usage(client) == []
    ask(client, "one two three")
    ask(client, "four")
    wait_until(lambda: bool(usage(client)) and usage(client)[0]["completion_tokens"] == 12)
    (row,) = usage(client)
    assert row.pop("key").startswith("key-")
    # The echo counts words: 3 + 1 asked, 7 + 5 answered.
    assert row == {"model": MODEL, "requests": 2, "cached": 0, "prompt_tokens": 4, "completion_tokens": 12, "cost": 14.0}


def test_stream_whose_usage_the_model_does_not_report_is_counted_by_the_tokenizer(client: openai.OpenAI, folder: Path) -> None:
    def counted() -> int:
        methods = json.loads(annexe(folder, "metrics", "--json"))["tokenizer"]["methods"]
        assert all(not figures["failures"] for figures in methods.values())
        return int(methods.get("svc.tokenizer.count", {}).get("calls", 0))

    before = counted()
    list(client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "one two three"}], stream=True))
    wait_until(lambda: bool(usage(client)) and usage(client)[0]["completion_tokens"] > 0)
    (row,) = usage(client)
    # Three words and the bounds of a message; in the answer two of the signs are quotation marks: You wrote 3 words: "one two three"
    assert (row["prompt_tokens"], row["completion_tokens"]) == (3 + 4, 10)
    assert counted() == before + 1


def test_too_many_tokens_of_one_key_are_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.APIStatusError) as caught:
        ask(client, "word " * TOKENS)
    assert (caught.value.status_code, caught.value.code) == (413, "too-many-tokens")
    ask(client, "word " * (TOKENS * 3 // 5))
    with pytest.raises(openai.RateLimitError, match="More than 5000 tokens in a minute"):
        ask(client, "word " * (TOKENS * 3 // 5))
    ask(client, "word")


def test_request_id_is_the_clients_own_or_a_new_one(client: openai.OpenAI) -> None:
    def request_id(**headers: str) -> str | None:
        messages: Any = [{"role": "user", "content": "hi"}]
        return client.chat.completions.with_raw_response.create(model=MODEL, messages=messages, extra_headers=headers).headers.get(
            "x-request-id"
        )

    assert request_id(**{"x-request-id": "mine-7"}) == "mine-7"
    assert request_id() != request_id()
    assert request_id(**{"x-request-id": "two words"}) != "two words"


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"{", 400), (b"[]", 400), (b'{"model": "m"}', 400), (b'{"model": 5, "messages": []}', 400), (b" " * 9_000_000, 413)],
)
def test_bad_request_is_refused_in_openai_form(url: str, body: bytes, status: int) -> None:
    response = httpx.post(f"{url}/v1/chat/completions", content=body)
    assert response.status_code == status
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert response.headers["x-request-id"]


def test_plugin_may_answer_in_the_models_place_streamed_too(client: openai.OpenAI, url: str) -> None:
    wait_until(lambda: chaos_is_back(url), timeout_s=40)
    assert ask(client, "chaos: respond") == "Chaos was asked to answer."
    attempts = ask(client, "chaos: escape").splitlines()
    assert len(attempts) == 12
    assert [line for line in attempts if not line.startswith("refused  ")] == []
    stream = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": "chaos: respond"}], stream=True)
    chunks = list(stream)
    assert "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices) == "Chaos was asked to answer."
    assert chunks[-1].choices[0].finish_reason == "stop"


@pytest.mark.parametrize("fault", ["crash", "exit", "raise", "none", "wrong-type", "wrong-shape", "garbage", "state", "huge", "hang"])
def test_plugin_fault_does_not_reach_the_request_nor_others(url: str, fault: str) -> None:
    async def scenario() -> list[str]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key=uuid4().hex, max_retries=0) as others:
            texts = [f"chaos: {fault}", *(f"I am ada{number}@example.org" for number in range(8))]
            answers = await asyncio.gather(
                *(others.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}]) for text in texts)
            )
            return [answer.choices[0].message.content or "" for answer in answers]

    faulty, *others = asyncio.run(scenario())
    assert f"chaos: {fault}" in faulty
    assert [f"ada{number}@example.org" in answer for number, answer in enumerate(others)] == [True] * 8
    # And the plugin comes back.
    wait_until(lambda: chaos_is_back(url), timeout_s=40)


@pytest.mark.parametrize("fault", ["fork", "fork-exit"])
def test_fork_of_a_plugin_without_the_right_is_refused_and_explained(url: str, folder: Path, fault: str) -> None:
    wait_until(lambda: chaos_is_back(url), timeout_s=40)
    request = uuid4().hex
    with openai.OpenAI(base_url=f"{url}/v1", api_key=request, max_retries=0) as client:
        assert f"chaos: {fault}" in ask(client, f"chaos: {fault}", extra_headers={"x-request-id": request})
    command = [str(Path(sys.executable).with_name("annexe")), "explain", request, "--state", str(folder / "state"), "--json"]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    (step,) = [step for step in json.loads(told)["steps"] if step["plugin"] == "chaos" and step["hook"] == "chat.on_request"]
    assert step["outcome"] == "failed" and "PermissionError" in told


@pytest.mark.parametrize("fault", ["stream-raise", "stream-crash", "stream-wrong-type"])
def test_stream_fault_after_output_ends_the_stream_with_an_error(url: str, fault: str) -> None:
    wait_until(lambda: chaos_is_back(url), timeout_s=40)
    body = {"model": MODEL, "stream": True, "messages": [{"role": "user", "content": f"chaos: {fault}"}]}
    response = httpx.post(f"{url}/v1/chat/completions", json=body, headers={"authorization": f"Bearer {uuid4().hex}"})
    events = [line.removeprefix("data: ") for line in response.text.splitlines() if line]
    assert response.status_code == 200
    assert json.loads(events[-1])["error"]["code"] == "plugin_failed"
    assert "[DONE]" not in response.text


def test_client_that_goes_away_cancels_its_request(client: openai.OpenAI) -> None:
    text = "word " * 4_000  # some 3,300 pieces with a pause after each: half a minute
    stream = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": text}], stream=True)
    next(iter(stream))
    stream.close()
    # The request is over at once, and what the model had said by then is counted.
    wait_until(lambda: bool(usage(client)), timeout_s=10)
    assert usage(client)[0]["completion_tokens"] < 2_000


def test_cache_is_replaced_under_load_and_no_call_is_lost(url: str, folder: Path) -> None:
    def pid() -> int:
        return int(next(plugin["pid"] for plugin in json.loads(annexe(folder, "list", "--json")) if plugin["id"] == "answer-cache"))

    before = pid()
    command = [sys.executable, "-m", "examples.gateway.replace", "--url", url, "--state", str(folder / "state"), "--times", "3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    told = re.match(
        r"answer-cache was replaced 3 times in .* s, while 8 clients made (\d+) requests\.\nIt got (\d+) calls; (.*)\n", done.stdout
    )
    assert told is not None, done.stdout + done.stderr
    assert told[3] == "0 were lost." and done.returncode == 0
    assert int(told[1]) > 20 and int(told[2]) == 2 * int(told[1])
    assert pid() != before
    assert "service tokenizer >=1,<2  met  tokenizer" in done.stdout


def test_graph_shows_the_tokenizer_with_its_dependents(url: str, folder: Path) -> None:
    wait_until(lambda: chaos_is_back(url), timeout_s=40)
    told = json.loads(annexe(folder, "graph", "--json"))
    waves = {plugin["id"]: plugin["wave"] for plugin in told["plugins"]}
    given = {one["plugin"]: (one["kind"], one["name"], one["status"], one["providers"]) for one in told["requirements"]}
    assert given == dict.fromkeys(["rate-limiter", "usage-meter"], ("service", "tokenizer", "met", ["tokenizer"]))
    assert waves == {plugin: 2 if plugin in given else 1 for plugin in waves}
    assert told["refused"] == []


def test_stop_of_the_tokenizer_is_told_beforehand_stops_its_dependents_and_no_request(tmp_path: Path) -> None:
    with gateway(tmp_path) as (url, _process):
        told = json.loads(annexe(tmp_path, "stop", "tokenizer", "--dry-run", "--json"))
        assert sorted(told["stops"]) == ["rate-limiter", "usage-meter"] and told["loses"] == {}
        assert set(states(tmp_path).values()) == {"ready"}
        annexe(tmp_path, "stop", "tokenizer")
        after = states(tmp_path)
        assert {plugin for plugin, state in after.items() if state != "ready"} == {"tokenizer", *told["stops"]}
        assert {after[plugin] for plugin in told["stops"]} == {"blocked"}
        with openai.OpenAI(base_url=f"{url}/v1", api_key=uuid4().hex, max_retries=0) as client:
            assert "hello" in ask(client, "hello")
        annexe(tmp_path, "start", "tokenizer")
        wait_until(lambda: set(states(tmp_path).values()) == {"ready"})


def test_interrupt_stops_the_gateway_in_good_order(tmp_path: Path) -> None:
    with gateway(tmp_path) as (url, process):
        httpx.get(f"{url}/v1/models").raise_for_status()
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    assert "Traceback" not in (tmp_path / "stderr").read_text()


@pytest.mark.parametrize("bubblewrap", [pytest.param(True, id="with bubblewrap"), pytest.param(False, id="without bubblewrap")])
def test_all_plugins_of_the_demo_run_and_work_at_the_level_of_the_machine(tmp_path: Path, bubblewrap: bool) -> None:
    with gateway(tmp_path, program="" if bubblewrap else WITHOUT_BUBBLEWRAP) as (url, _process):
        levels = re.findall(r"isolation: (\S+)\)", httpx.get(url).text)
        assert levels == [level_here() if bubblewrap else "landlock"] * len(list(ROOT.glob("plugins/*/plugin.toml")))
        with openai.OpenAI(base_url=f"{url}/v1", api_key=uuid4().hex, max_retries=0) as client:
            assert "ada@example.org" in ask(client, "Write to ada@example.org")
            assert [line for line in ask(client, "chaos: escape").splitlines() if not line.startswith("refused  ")] == []
