"""The smallest host: one hook, and whatever plugins lie in the folder beside this file. Run it: ``python examples/minimal``."""

import asyncio
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from annexe import HookSpec, Host, hook


@dataclass
class Greeting:
    text: str
    name: str


class Greeter(HookSpec, name="greeter", revision=1):
    @hook.filter
    async def on_greeting(self, greeting: Greeting) -> Greeting:
        """Change a greeting before it is spoken."""
        return greeting


async def main() -> None:
    plugins = Path(__file__).parent / "plugins"
    with TemporaryDirectory() as state:
        async with Host(plugins=plugins, contracts=[Greeter], grants="manifest", state_dir=state) as host:
            greeting = await host.hooks(Greeter).on_greeting(Greeting(text="hello", name="world"))
            print(f"{greeting.text}, {greeting.name}")


if __name__ == "__main__":
    asyncio.run(main())
