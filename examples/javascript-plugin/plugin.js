// What the plugin does. How it talks to the host is in channel.js.
"use strict";

const { Channel, Reject } = require("./channel.js");

let config = {};

/** Tone down shouting, count what was toned down, refuse what is no text at all. */
async function onText(text, call) {
  if (text.trim() === "") throw new Reject("empty", "there is nothing to say", 422);
  if (text !== text.toUpperCase() || text === text.toLowerCase()) return undefined; // unchanged
  const count = await call.ask("kv.increment", { key: "toned-down" });
  call.log("info", "toned down", { count });
  return `${text[0]}${text.slice(1).toLowerCase()}${config.mark || ""}`;
}

/** The same for a stream, piece by piece. */
async function* onChunks(chunks, call) {
  let length = 0;
  for await (const chunk of chunks) {
    length += chunk.length;
    yield chunk.toLowerCase();
  }
  await call.ask("kv.set", { key: "last-length", value: length });
}

new Channel({
  start(activation) {
    config = activation.config;
  },
  hooks: {
    "chat.on_text": { kind: "filter", handler: onText },
    "chat.on_chunks": { kind: "stream_filter", handler: onChunks },
  },
});
