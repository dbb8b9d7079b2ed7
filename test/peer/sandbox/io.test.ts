import { execFile, execFileSync } from "node:child_process";
import { createHash, randomBytes } from "node:crypto";
import { once } from "node:events";
import { closeSync, constants, createWriteStream, openSync, readdirSync, readSync, writeSync } from "node:fs";
import { createServer, Socket } from "node:net";
import { Writable } from "node:stream";
import { setTimeout as sleep } from "node:timers/promises";
import { promisify } from "node:util";
import { pino } from "pino";
import { expect, test } from "vitest";
import { encodeFrames, endFrame, FrameDecoder } from "../../../src/agent-client/frames.ts";
import { makeDirect } from "../../../src/base/direct-reads.ts";
import { RuntimeError } from "../../../src/base/errors.ts";
import { within } from "../../../src/base/scope.ts";
import { ProcessIo } from "../../../src/sandbox/io.ts";
import type { Stdio } from "../../../src/sandbox/model.ts";
import { createTempDir, type TempDir } from "../../support/temp-dir.ts";

const { O_RDONLY, O_WRONLY, O_NONBLOCK } = constants;
const execute = promisify(execFile);
const signal = new AbortController().signal;
const log = pino({ level: "silent" });
const exitMark = Buffer.alloc(4, 0xff);
const openFds = () => readdirSync("/proc/self/fd").length;
const silent = { stdin: "", stdout: "", stderr: "", terminal: false } satisfies Stdio;

function makeFifo(dir: TempDir, name: string): string {
  execFileSync("mkfifo", [dir.join(name)]);
  return dir.join(name);
}

/** The guest's ends of stdio: real sockets, by the name that was asked for. */
async function startGuest(dir: TempDir) {
  const server = createServer({ allowHalfOpen: true }).listen(dir.join("guest"));
  await once(server, "listening");
  const sockets = new Map<string, Socket>();
  // A unix socket accepts in the order of the connects.
  const dialled: string[] = [];
  server.on("connection", (socket) => {
    socket.on("error", () => {});
    sockets.set(dialled.shift() ?? "", socket);
  });
  return {
    has: (name: string) => sockets.has(name),
    socket: (name: string) => sockets.get(name) as Socket,
    open: async (name: string) => {
      dialled.push(name);
      const client = makeDirect((options) => new Socket(options)).connect(dir.join("guest"));
      await expect.poll(() => sockets.has(name), { interval: 1 }).toBe(true);
      return client;
    },
    async [Symbol.asyncDispose]() {
      for (const socket of sockets.values()) socket.destroy();
      server.close();
      await once(server, "close");
    },
  };
}

function send(socket: Socket, data: Buffer): void {
  for (const frame of encodeFrames(data)) socket.write(frame);
}

/** Reads to the end in a process of its own, as a client does. */
async function readAll(path: string): Promise<Buffer> {
  const { stdout } = await execute("cat", [path], { encoding: "buffer", maxBuffer: 64 * 1024 * 1024 });
  return stdout;
}

/** What is in the FIFO now. */
function readNow(fd: number): string {
  const bytes = Buffer.alloc(1024);
  return bytes.toString("utf8", 0, readSync(fd, bytes));
}

/** Opens the reading ends first, as containerd does. */
async function openConnected(dir: TempDir, guest: Awaited<ReturnType<typeof startGuest>>, stdio: Stdio) {
  const io = await ProcessIo.open({ stdio }, log, signal);
  await io.connect(guest.open, signal);
  return { io, [Symbol.dispose]: () => io.close(), dir };
}

test("stdout and stderr of more than a pipe's size arrive exactly and apart", async () => {
  await using dir = createTempDir();
  await using guest = await startGuest(dir);
  const stdio = { ...silent, stdout: makeFifo(dir, "out"), stderr: makeFifo(dir, "err") };
  const readers = Promise.all([readAll(stdio.stdout), readAll(stdio.stderr)]);
  using connected = await openConnected(dir, guest, stdio);
  const out = randomBytes(3_000_001);
  const err = randomBytes(700_003);

  send(guest.socket("stdout"), out);
  send(guest.socket("stderr"), err);
  for (const name of ["stdout", "stderr"]) {
    guest.socket(name).write(exitMark);
    guest.socket(name).write(endFrame);
  }

  const [gotOut, gotErr] = await readers;
  await connected.io.finished;
  const digest = (data: Buffer) => createHash("sha256").update(data).digest("hex");
  expect([gotOut.length, digest(gotOut)]).toEqual([out.length, digest(out)]);
  expect([gotErr.length, digest(gotErr)]).toEqual([err.length, digest(err)]);
});

test("a reader that does not read pauses its own stream only, and exitSeen waits for it", async () => {
  await using dir = createTempDir();
  await using guest = await startGuest(dir);
  const stdio = { ...silent, stdout: makeFifo(dir, "out"), stderr: makeFifo(dir, "err") };
  const slow = openSync(stdio.stdout, O_RDONLY | O_NONBLOCK);
  const errors = readAll(stdio.stderr);
  using connected = await openConnected(dir, guest, stdio);
  const data = randomBytes(8 * 1024 * 1024);

  send(guest.socket("stdout"), data);
  guest.socket("stdout").write(exitMark);
  send(guest.socket("stderr"), Buffer.from("not held up"));
  for (const name of ["stdout", "stderr"]) guest.socket(name).write(endFrame);

  expect((await errors).toString()).toBe("not held up");
  // Nothing announces that no more is taken over; the socket's buffer and the FIFO are full long before.
  expect(await within(connected.io.exitSeen, 200, "late")).toBe("late");
  const heldBytes = data.length - guest.socket("stdout").writableLength;
  expect(heldBytes).toBeLessThan(1024 * 1024);

  const received = await drain(slow, data.length);
  await connected.io.exitSeen;
  expect(received.equals(data)).toBe(true);
  closeSync(slow);
});

/** Reads from a non-blocking descriptor, slowly. */
async function drain(fd: number, length: number): Promise<Buffer> {
  const received = Buffer.alloc(length);
  for (let offset = 0; offset < length; ) {
    try {
      offset += readSync(fd, received, offset, Math.min(length - offset, 256 * 1024), null);
    } catch {
      // EAGAIN: a descriptor without readiness events; look again.
      await sleep(1);
    }
  }
  return received;
}

test("exitSeen comes with the mark although a background process keeps the stream, which goes on", async () => {
  await using dir = createTempDir();
  await using guest = await startGuest(dir);
  const stdio = { ...silent, stdout: makeFifo(dir, "out") };
  const reader = openSync(stdio.stdout, O_RDONLY | O_NONBLOCK);
  using connected = await openConnected(dir, guest, stdio);

  send(guest.socket("stdout"), Buffer.from("own "));
  guest.socket("stdout").write(exitMark);
  await connected.io.exitSeen;
  expect(readNow(reader)).toBe("own ");

  send(guest.socket("stdout"), Buffer.from("of a child"));
  guest.socket("stdout").write(endFrame);
  await connected.io.finished;
  expect(readNow(reader)).toBe("of a child");
  closeSync(reader);
});

test("the end of the connection without an end frame delivers what came before and ends the stream", async () => {
  await using dir = createTempDir();
  await using guest = await startGuest(dir);
  const stdio = { ...silent, stdout: makeFifo(dir, "out") };
  const reader = readAll(stdio.stdout);
  using connected = await openConnected(dir, guest, stdio);

  send(guest.socket("stdout"), Buffer.from("last words"));
  // In the middle of the next frame's length.
  guest.socket("stdout").end(Buffer.from([0, 0]));

  expect((await reader).toString()).toBe("last words");
  await connected.io.exitSeen;
  await connected.io.finished;
});

test("a frame beyond the limit ends its stream, and what came before it is delivered", async () => {
  await using dir = createTempDir();
  await using guest = await startGuest(dir);
  const stdio = { ...silent, stdout: makeFifo(dir, "out") };
  const reader = readAll(stdio.stdout);
  using connected = await openConnected(dir, guest, stdio);

  send(guest.socket("stdout"), Buffer.from("good"));
  guest.socket("stdout").write(Buffer.from([0x7f, 0, 0, 0]));

  await connected.io.finished;
  expect((await reader).toString()).toBe("good");
});

test("stdin arrives in order from clients that detach and attach, and ends after closeStdin() with the last of them", async () => {
  await using dir = createTempDir();
  await using guest = await startGuest(dir);
  const stdio = { ...silent, stdin: makeFifo(dir, "in") };
  using connected = await openConnected(dir, guest, stdio);
  const received: Buffer[] = [];
  guest.socket("stdin").on("data", (chunk: Buffer) => received.push(chunk));
  const bytes = () => Buffer.concat(received);

  for (const text of ["first ", "second "]) {
    const client = openSync(stdio.stdin, O_WRONLY | O_NONBLOCK);
    writeSync(client, text);
    closeSync(client);
    await expect.poll(() => bytes().toString()).toContain(text);
  }
  const last = openSync(stdio.stdin, O_WRONLY | O_NONBLOCK);
  connected.io.closeStdin();
  writeSync(last, "third");
  closeSync(last);

  await expect.poll(() => bytes().subarray(-4).equals(endFrame)).toBe(true);
  expect(bytes()).toEqual(
    Buffer.concat([
      ...["first ", "second ", "third"].flatMap((text) => encodeFrames(Buffer.from(text))),
      endFrame,
    ]),
  );
});

test("clients do not block on the stdin of a process that reads no more", async () => {
  await using dir = createTempDir();
  await using guest = await startGuest(dir);
  const stdio = { ...silent, stdin: makeFifo(dir, "in") };
  using _connected = await openConnected(dir, guest, stdio);
  guest.socket("stdin").destroy();

  // More than a FIFO holds: it ends only when somebody takes it.
  const client = openSync(stdio.stdin, O_WRONLY | O_NONBLOCK);
  let left = 1024 * 1024;
  while (left > 0) {
    try {
      left -= writeSync(client, Buffer.alloc(Math.min(left, 65_536)));
    } catch {
      await sleep(1);
    }
  }
  closeSync(client);
});

test("stdin arrives exactly at a guest that reads late", async () => {
  await using dir = createTempDir();
  await using guest = await startGuest(dir);
  const stdio = { ...silent, stdin: makeFifo(dir, "in") };
  using connected = await openConnected(dir, guest, stdio);
  const data = randomBytes(4 * 1024 * 1024);
  guest.socket("stdin").pause();
  const client = createWriteStream(stdio.stdin);
  client.end(data);
  const written = once(client, "close");
  // The sockets and the FIFO are full long before.
  expect(await within(written, 200, "late")).toBe("late");

  const received = new Promise<Buffer>((resolve) => {
    const payloads: Buffer[] = [];
    const onEnd = () => resolve(Buffer.concat(payloads));
    const onData = (payload: Buffer) => payloads.push(payload);
    const decoder = new FrameDecoder({ onData, onExitMark: () => {}, onEnd });
    guest.socket("stdin").on("data", (chunk: Buffer) => decoder.push(chunk));
  });
  guest.socket("stdin").resume();
  await written;
  connected.io.closeStdin();

  expect((await received).equals(data)).toBe(true);
});

test("streams of this program may keep what they were given", async () => {
  await using dir = createTempDir();
  await using guest = await startGuest(dir);
  const kept: Buffer[] = [];
  const stdout = new Writable({
    write: (chunk: Buffer, _encoding, done) => {
      kept.push(chunk);
      done();
    },
  });
  const io = await ProcessIo.open({ stdio: silent, streams: { stdout } }, log, signal);
  await io.connect(guest.open, signal);
  const data = randomBytes(2 * 1024 * 1024);

  send(guest.socket("stdout"), data);
  guest.socket("stdout").write(endFrame);

  await io.finished;
  expect(Buffer.concat(kept).equals(data)).toBe(true);
});

test("open() fails at once when one stream is bad while another waits for its reader, and leaves nothing open", async () => {
  await using dir = createTempDir();
  const stdio = { ...silent, stdin: makeFifo(dir, "in"), stdout: makeFifo(dir, "out"), stderr: dir.path };
  const before = openFds();

  const opening = ProcessIo.open({ stdio }, log, signal);

  await expect(opening).rejects.toMatchObject({ code: "invalid_argument" });
  expect(openFds()).toBe(before);
  // A reader that comes too late finds nobody who still waits for it.
  const reader = openSync(stdio.stdout, O_RDONLY | O_NONBLOCK);
  await sleep(50);
  expect(openFds()).toBe(before + 1);
  closeSync(reader);
});

test("connect() that is refused one stream closes the others, also those that come later", async () => {
  await using dir = createTempDir();
  await using guest = await startGuest(dir);
  const stdio = { ...silent, stdout: makeFifo(dir, "out"), stderr: makeFifo(dir, "err") };
  const readers = Promise.all([readAll(stdio.stdout), readAll(stdio.stderr)]);
  const io = await ProcessIo.open({ stdio }, log, signal);
  const late = Promise.withResolvers<void>();

  const connecting = io.connect(async (name) => {
    if (name === "stderr") throw new RuntimeError("unavailable", "refused");
    await late.promise;
    return guest.open(name);
  }, signal);
  await expect(connecting).rejects.toThrow("refused");
  late.resolve();

  await expect.poll(() => guest.has("stdout")).toBe(true);
  await expect.poll(() => guest.socket("stdout").readableEnded).toBe(true);
  expect(await readers).toEqual([Buffer.alloc(0), Buffer.alloc(0)]);
});

test("stderr is not opened for a terminal", async () => {
  await using dir = createTempDir();
  await using guest = await startGuest(dir);
  const stdio = { ...silent, stdout: makeFifo(dir, "out"), stderr: dir.join("not there"), terminal: true };
  const reader = readAll(stdio.stdout);
  using connected = await openConnected(dir, guest, stdio);

  guest.socket("stdout").write(endFrame);

  await connected.io.finished;
  expect((await reader).length).toBe(0);
});

test("without streams everything has ended at once", async () => {
  const io = await ProcessIo.open({ stdio: silent }, log, signal);

  await io.connect(() => Promise.reject(new Error("not called")), signal);
  await io.exitSeen;
  await io.finished;
  io.close();
  io.close();
});
