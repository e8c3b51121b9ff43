"""A streamed call of a service on its way: items from one plugin to the other, both ways.

* The host is an end of its own on either side: each plugin is paid for what it sends, so who reads slowly slows the sender down, and
  nothing piles up.
* No task per item: one for the stream, and one more where the caller sends items too.
* Nothing of an item is decoded where both plugins speak one codec.

Source: docs/explanation/services.md, "Streams"; ADR-0097.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from annexe.channel import CodecName, PluginStream, Response, Stream, passed_on
from annexe.errors import AnnexeError, InvalidParamsError, InvalidResultError

__all__ = ["item_decoder", "relay"]


def item_decoder(plugin: str, method: str, *, to: CodecName) -> Any:
    """Return what makes of a provider's item one that can be sent in codec ``to``."""

    def decode(codec: CodecName, raw: msgspec.Raw) -> Any:
        try:
            return passed_on(raw, codec, to=to)
        except ValueError as error:
            text = f"plugin {plugin!r} sent an item of {method} that cannot be passed on: {error}"
            raise InvalidResultError(text, plugin=plugin, method=method) from error

    return decode


async def relay(caller: PluginStream, provider: Stream, *, to: CodecName) -> Response:
    """Pass items on until the provider has answered; what it answers is the end of the stream.

    Args:
        caller: The stream of the plugin that asked.
        provider: That of the plugin that answers; ``item_decoder`` has made its items ready to be sent.
        to: Codec that the provider is spoken to in.

    Raises:
        CallError: The provider refused, failed or went away, or an item cannot be passed on.
    """
    feeding = None if caller.direction == "out" else asyncio.get_running_loop().create_task(_feed(caller, provider, to))
    try:
        async for item in provider:
            await _pass_back(caller, provider, item)
    except AnnexeError as error:
        provider.fail(error)
        raise
    except BaseException:  # called off while the caller had no room: the provider's stream does not know yet
        provider.abandon()
        raise
    finally:
        if feeding is not None:
            feeding.cancel()
    response: Response = provider.call.future.result()
    return response


async def _pass_back(caller: PluginStream, provider: Stream, item: Any) -> None:
    plugin, method = provider.call.connection.plugin, provider.call.method
    if caller.direction == "in":
        text = f"plugin {plugin!r} sent an item of {method}, which was asked to take a stream and to answer with a result"
        raise InvalidResultError(text, plugin=plugin, method=method)
    try:
        await caller.send(item)
    except InvalidParamsError as error:
        text = f"plugin {plugin!r} sent an item of {method} that cannot be passed on: {error.message}"
        raise InvalidResultError(text, plugin=plugin, method=method) from error


async def _feed(caller: PluginStream, provider: Stream, to: CodecName) -> None:
    """Pass on what the caller sends; what goes wrong with that ends the stream."""
    method = provider.call.method
    try:
        async for raw, codec in caller:
            try:
                item = passed_on(raw, codec, to=to)
            except ValueError as error:
                raise InvalidParamsError(f"an item for {method} cannot be passed on: {error}", method=method) from error
            await provider.send(item)
    except AnnexeError as error:
        if not provider.call.future.done():
            provider.fail(error)
    else:
        provider.end()
