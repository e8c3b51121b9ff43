// The wire protocol of docs/reference/protocol.md, as much of it as a plugin needs: JSON, calls both ways, cancellation, streams with credit.
"use strict";

const net = require("node:net");

const REQUEST = 0, RESPONSE = 1, NOTIFICATION = 2, CANCEL = 3, ITEM = 4, END = 5, CREDIT = 6;
const HELLO_MAX_FRAME_BYTES = 64 * 1024;
const INITIAL_CREDIT_BYTES = 64 * 1024;
const MAX_ITEM_FRAME_BYTES = 64 * 1024;

/** What a handler throws to refuse a request. */
class Reject extends Error {
  constructor(code, message, status = 403) {
    super(message);
    this.data = { code, message, status };
  }
}

/** One call of the host's that is not answered yet. */
class Call {
  constructor(channel, id, method, params, meta) {
    Object.assign(this, { channel, id, method, params, meta });
    this.cancelled = false;
    this.credit = INITIAL_CREDIT_BYTES; // what we may still send
    this.inbox = []; // items that came, each with what it cost
    this.ended = meta.stream === undefined || meta.stream === "out";
    this.wake = null;
  }

  /** Ask the host on behalf of this call. */
  ask(method, params) {
    return this.channel.ask(method, params, this.id);
  }

  log(level, message, fields = {}) {
    this.channel.send([NOTIFICATION, "log", { level, message, fields }, { parent: this.id }]);
  }

  /** The caller's stream. Taking the next item acknowledges the one before. */
  async *items() {
    for (;;) {
      await this.until(() => this.inbox.length > 0 || this.ended);
      if (this.inbox.length === 0) return;
      const { value, cost } = this.inbox.shift();
      yield value;
      this.channel.send([CREDIT, this.id, cost]);
    }
  }

  /** Send one item of ours, when there is credit for it. */
  async sendItem(value) {
    const body = encode([ITEM, this.id, value, {}]);
    if (body.length > MAX_ITEM_FRAME_BYTES) throw new Error(`an item of ${body.length} bytes is too large`);
    await this.until(() => this.credit >= body.length);
    this.credit -= body.length;
    this.channel.write(body);
  }

  async until(there) {
    while (!this.cancelled && !there()) await new Promise((resolve) => (this.wake = resolve));
    if (this.cancelled) throw new Error("cancelled");
  }

  nudge() {
    const wake = this.wake;
    this.wake = null;
    if (wake) wake();
  }
}

function encode(message) {
  // JSON.stringify would make null of NaN and infinity, and leave out undefined.
  const text = JSON.stringify(message, (_key, value) => {
    if (typeof value === "number" && !Number.isFinite(value)) throw new Error(`${value} cannot be sent`);
    return value === undefined ? null : value;
  });
  return Buffer.from(text);
}

class Channel {
  /** `plugin`: {hooks: {name: {kind, handler}}, start(config)}; a stream filter's handler is an async generator. */
  constructor(plugin) {
    this.plugin = plugin;
    this.limit = HELLO_MAX_FRAME_BYTES;
    this.buffer = Buffer.alloc(0);
    this.calls = new Map();
    this.waiting = new Map(); // our requests
    this.lastId = 0;
    this.lastHostId = 0;
    this.ready = []; // calls that wait for a slot
    this.running = 0;
    this.concurrency = 1;
    this.socket = new net.Socket({ fd: Number(process.env.ANNEXE_FD), readable: true, writable: true });
    this.socket.on("data", (chunk) => this.receive(chunk));
    this.socket.on("close", () => process.exit(0)); // the host is gone
    this.socket.on("error", () => process.exit(0));
  }

  // Out.

  write(body) {
    const head = Buffer.alloc(4);
    head.writeUInt32BE(body.length);
    this.socket.write(Buffer.concat([head, body]));
  }

  send(message) {
    this.write(encode(message));
  }

  ask(method, params, parent) {
    this.lastId += 2;
    const id = this.lastId;
    this.send([REQUEST, id, method, params, parent === undefined ? {} : { parent }]);
    return new Promise((resolve, reject) => this.waiting.set(id, { resolve, reject }));
  }

  answer(call, result, meta = {}) {
    this.calls.delete(call.id);
    let body;
    try {
      body = encode([RESPONSE, call.id, null, result, meta]);
      if (body.length > this.limit) throw new Error(`an answer of ${body.length} bytes is too large`);
    } catch (error) {
      return this.fail(call, "invalid-result", error.message);
    }
    this.write(body);
  }

  fail(call, code, message, data = null) {
    this.calls.delete(call.id);
    this.send([RESPONSE, call.id, { code, message, data }, null, {}]);
  }

  // In.

  receive(chunk) {
    this.buffer = Buffer.concat([this.buffer, chunk]);
    while (this.buffer.length >= 4) {
      const size = this.buffer.readUInt32BE(0);
      if (size === 0 || size > this.limit) this.broken(size === 0 ? "frame-empty" : "frame-too-large");
      if (this.buffer.length < 4 + size) break;
      const frame = this.buffer.subarray(4, 4 + size);
      this.buffer = this.buffer.subarray(4 + size);
      this.take(frame);
    }
    this.startReady(); // only now, so that a cancel that came along is seen
  }

  broken(rule) {
    console.error(`the host broke the protocol: ${rule}`);
    process.exit(1);
  }

  take(frame) {
    if (frame[0] !== 0x5b) this.broken("codec-not-agreed");
    let message;
    try {
      message = JSON.parse(frame.toString("utf8"));
    } catch (error) {
      this.broken("undecodable");
    }
    const [kind, id] = message;
    const call = this.calls.get(id);
    if (kind === REQUEST) this.onRequest(...message.slice(1));
    else if (kind === RESPONSE) this.onResponse(...message.slice(1));
    else if (call === undefined) return; // it is over: such messages cross on the wire
    else if (kind === CANCEL) this.onCancel(call);
    else if (kind === ITEM) call.inbox.push({ value: message[2], cost: frame.length });
    else if (kind === END) call.ended = true;
    else if (kind === CREDIT) call.credit += message[2];
    if (call !== undefined) call.nudge();
  }

  onRequest(id, method, params, meta) {
    if (id % 2 !== 1 || id <= this.lastHostId) this.broken("bad-id");
    this.lastHostId = id;
    const call = new Call(this, id, method, params, meta);
    this.calls.set(id, call);
    if (method.startsWith("annexe.")) this.control(call);
    else if (meta.stream !== undefined || this.calls.has(meta.parent)) this.run(call); // neither takes a slot
    else this.ready.push(call);
  }

  onResponse(id, error, result) {
    const waiting = this.waiting.get(id);
    if (waiting === undefined) {
      if (id % 2 !== 0 || id > this.lastId) this.broken("unknown-id");
      return;
    }
    this.waiting.delete(id);
    if (error === null) waiting.resolve(result);
    else waiting.reject(Object.assign(new Error(error.message), error));
  }

  onCancel(call) {
    call.cancelled = true;
    const place = this.ready.indexOf(call);
    if (place >= 0) {
      this.ready.splice(place, 1);
      this.fail(call, "cancelled", "cancelled before it was started");
    }
  }

  startReady() {
    while (this.ready.length > 0 && this.running < this.concurrency) {
      this.running += 1;
      this.run(this.ready.shift()).finally(() => {
        this.running -= 1;
        this.startReady();
      });
    }
  }

  // Running.

  async run(call) {
    const hook = this.plugin.hooks[call.method.replace(/^hook\./, "")];
    if (hook === undefined) return this.fail(call, "method-not-found", `this plugin has no ${call.method}`);
    try {
      if (hook.kind === "stream_filter") {
        for await (const item of hook.handler(call.items(), ...call.params, call)) await call.sendItem(item);
        this.answer(call, null);
      } else {
        const result = await hook.handler(...call.params, call);
        if (result === undefined) this.answer(call, null, { outcome: "unchanged" });
        else this.answer(call, result);
      }
    } catch (error) {
      if (error instanceof Reject) this.fail(call, "rejected", error.message, error.data);
      else if (call.cancelled) this.fail(call, "cancelled", "cancelled while it ran");
      else this.fail(call, "plugin-raised", String(error), { type: error.name, at: whereOf(error) });
    }
  }

  control(call) {
    const answers = {
      "annexe.hello": () => {
        if (!call.params.protocols.includes(1)) {
          return this.fail(call, "protocol-unsupported", `this plugin speaks protocol [1], the host ${call.params.protocols}`);
        }
        this.limit = call.params.limits.max_frame_bytes;
        this.concurrency = call.params.limits.concurrency;
        this.answer(call, { protocol: 1, codec: "json", sdk: { name: "none", language: "javascript", version: process.version } });
      },
      "annexe.activate": () => {
        this.plugin.start(call.params);
        const hooks = {};
        for (const [name, { kind }] of Object.entries(this.plugin.hooks)) hooks[name] = { kind, at: "plugin.js" };
        this.answer(call, { hooks, extensions: {} });
      },
      "annexe.ping": () => this.answer(call, null),
      "annexe.configure": () => {
        this.plugin.start(call.params);
        this.answer(call, { restart: false });
      },
      "annexe.shutdown": () => {
        this.answer(call, null);
        this.socket.end(() => process.exit(0));
      },
    };
    const answer = answers[call.method];
    if (answer === undefined) return this.fail(call, "method-not-found", `this plugin has no ${call.method}`);
    try {
      answer();
    } catch (error) {
      this.fail(call, call.method === "annexe.activate" ? "activation-failed" : "plugin-raised", String(error));
    }
  }
}

function whereOf(error) {
  const found = /([^/\\ (]+\.js:\d+):\d+\)?$/m.exec(error.stack || "");
  return found ? found[1] : null;
}

module.exports = { Channel, Reject };
