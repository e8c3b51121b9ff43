"""A plugin in one file."""

from annexe_sdk import Plugin

plugin = Plugin()


@plugin.filter("greeter.on_greeting")
def shout(greeting: dict[str, str]) -> dict[str, str]:
    return {**greeting, "text": greeting["text"].upper() + "!"}


if __name__ == "__main__":
    plugin.run()
