import { execFileSync } from "node:child_process";
import {
  closeSync,
  constants,
  mkdirSync,
  openSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
  writeSync,
} from "node:fs";
import { createServer } from "node:net";
import { once } from "node:events";
import { expect, test } from "vitest";
import { RuntimeError } from "../../../src/base/errors.ts";
import { openInput, openOutput } from "../../../src/sandbox/fifo.ts";
import { createTempDir, type TempDir } from "../../support/temp-dir.ts";

const { O_RDONLY, O_WRONLY, O_NONBLOCK } = constants;
const signal = new AbortController().signal;
const openFds = () => readdirSync("/proc/self/fd").length;

function makeFifo(dir: TempDir, name: string): string {
  execFileSync("mkfifo", [dir.join(name)]);
  return dir.join(name);
}

async function listenOn(path: string): Promise<void> {
  const server = createServer().listen(path);
  await once(server, "listening");
  server.unref();
}

test("openInput() goes on when its writer detaches and another one attaches, and ends after release()", async () => {
  await using dir = createTempDir();
  const path = makeFifo(dir, "stdin");
  const input = openInput(path);
  const received: Buffer[] = [];
  input.stream.on("data", (chunk: Buffer) => received.push(chunk));
  const ended = once(input.stream, "close");

  for (const text of ["first ", "second "]) {
    const writer = openSync(path, O_WRONLY | O_NONBLOCK);
    writeSync(writer, text);
    closeSync(writer);
    await expect.poll(() => Buffer.concat(received).toString()).toContain(text);
  }
  const last = openSync(path, O_WRONLY | O_NONBLOCK);
  input.release();
  input.release();
  writeSync(last, "third");
  closeSync(last);
  await ended;

  expect(Buffer.concat(received).toString()).toBe("first second third");
  input.close();
});

test("openInput() ends at once after release() when no client has it open", async () => {
  await using dir = createTempDir();
  const input = openInput(makeFifo(dir, "stdin"));
  input.stream.resume();

  input.release();

  await once(input.stream, "end");
  input.close();
});

test("openOutput() waits for the reader without holding up anything, and finish() delivers the last byte", async () => {
  await using dir = createTempDir();
  const path = makeFifo(dir, "stdout");
  const opening = openOutput(path, signal);

  const reader = openSync(path, O_RDONLY | O_NONBLOCK);
  const output = await opening;
  output.stream.write("to the end");
  await output.finish();
  await output.finish();

  expect(readFileSync(reader, "utf8")).toBe("to the end");
  closeSync(reader);
});

test("openOutput() of a FIFO whose reader never comes ends with the signal's reason and leaves nothing open", async () => {
  await using dir = createTempDir();
  const path = makeFifo(dir, "stdout");
  const before = openFds();
  const controller = new AbortController();
  const opening = openOutput(path, controller.signal);

  controller.abort(new RuntimeError("canceled", "the caller left"));

  await expect(opening).rejects.toThrow("the caller left");
  expect(openFds()).toBe(before);
});

test("openOutput() that waits for a reader says not_found when the FIFO is removed", async () => {
  await using dir = createTempDir();
  const path = makeFifo(dir, "stdout");
  const opening = openOutput(path, signal);

  unlinkSync(path);

  await expect(opening).rejects.toMatchObject({ code: "not_found" });
});

test("a FIFO's output goes on when its reader leaves and another one comes", async () => {
  await using dir = createTempDir();
  const path = makeFifo(dir, "stdout");
  const first = openSync(path, O_RDONLY | O_NONBLOCK);
  const output = await openOutput(`fifo://${path}`, signal);
  closeSync(first);

  output.stream.write("kept");
  const second = openSync(path, O_RDONLY | O_NONBLOCK);
  await output.finish();

  expect(readFileSync(second, "utf8")).toBe("kept");
  closeSync(second);
});

test("close() with unwritten bytes ends finish(), and every descriptor is given back", async () => {
  await using dir = createTempDir();
  const path = makeFifo(dir, "stdout");
  const reader = openSync(path, O_RDONLY | O_NONBLOCK);
  const before = openFds();
  const output = await openOutput(path, signal);
  expect(output.stream.write(Buffer.alloc(1024 * 1024))).toBe(false);
  const finished = output.finish();

  output.close();

  await finished;
  expect(openFds()).toBe(before);
  closeSync(reader);
});

test("file:// makes parents, appends, decodes, and never truncates", async () => {
  await using dir = createTempDir();
  const uri = `file://${dir.path}/logs/of%20c1/out.log`;

  for (const text of ["one\n", "two\n"]) {
    const output = await openOutput(uri, signal);
    output.stream.write(text);
    await output.finish();
  }

  expect(readFileSync(dir.join("logs", "of c1", "out.log"), "utf8")).toBe("one\ntwo\n");
});

test("a plain path of a file is appended to, a character device is written to", async () => {
  await using dir = createTempDir();
  writeFileSync(dir.join("log"), "before ");

  for (const path of [dir.join("log"), "/dev/null"]) {
    const output = await openOutput(path, signal);
    output.stream.write("after");
    await output.finish();
  }

  expect(readFileSync(dir.join("log"), "utf8")).toBe("before after");
});

test("a full file system drops the output and does not hang", async () => {
  const output = await openOutput("/dev/full", signal);

  output.stream.write("lost");

  await output.finish();
  expect(output.stream.destroyed).toBe(true);
});

interface Refused {
  readonly name: string;
  readonly code: string;
  readonly make?: (dir: TempDir) => unknown;
  /** Defaults to the path "x". */
  readonly uri?: (dir: TempDir) => string;
}

const makeFile = (dir: TempDir) => writeFileSync(dir.join("x"), "");
const makeLink = (dir: TempDir) => symlinkSync(makeFifo(dir, "target"), dir.join("x"));
const makeDirectory = (dir: TempDir) => mkdirSync(dir.join("x"));
const makeSocket = (dir: TempDir) => listenOn(dir.join("x"));
/** 240:0 is of the range for local use: no driver has it. */
const makeOrphanDevice = (dir: TempDir) => execFileSync("mknod", [dir.join("x"), "c", "240", "0"]);

const refusedOutputs: readonly Refused[] = [
  { name: "nothing", code: "not_found" },
  { name: "a directory", code: "invalid_argument", make: makeDirectory },
  { name: "a symbolic link", code: "invalid_argument", make: makeLink },
  { name: "a socket", code: "invalid_argument", make: makeSocket },
  { name: "a device without a driver", code: "invalid_argument", make: makeOrphanDevice },
  { name: "a path with NUL", code: "invalid_argument", uri: (dir) => `${dir.path}/a\0b` },
  { name: "file:// with NUL", code: "invalid_argument", uri: (dir) => `file://${dir.path}/a%00b` },
  { name: "file:// that is no URI", code: "invalid_argument", uri: (dir) => `file://${dir.path}/%zz` },
  {
    name: "file:// of a directory",
    code: "invalid_argument",
    make: makeDirectory,
    uri: (dir) => `file://${dir.path}/x`,
  },
  {
    name: "file:// of a symbolic link",
    code: "invalid_argument",
    make: makeLink,
    uri: (dir) => `file://${dir.path}/x`,
  },
  {
    name: "file:// of a FIFO without a reader",
    code: "invalid_argument",
    make: (dir) => makeFifo(dir, "x"),
    uri: (dir) => `file://${dir.path}/x`,
  },
  {
    name: "file:// below a file",
    code: "already_exists",
    make: makeFile,
    uri: (dir) => `file://${dir.path}/x/log`,
  },
  { name: "binary://", code: "unimplemented", uri: () => "binary:///bin/sh?x=y" },
  { name: "http://", code: "unimplemented", uri: () => "http://localhost/" },
];

test.each(refusedOutputs)("openOutput() of $name is $code", async ({ make, uri, code }) => {
  await using dir = createTempDir();
  await make?.(dir);
  const before = openFds();
  const limit = AbortSignal.timeout(2_000);

  await expect(openOutput(uri?.(dir) ?? dir.join("x"), limit)).rejects.toMatchObject({ code });

  expect(openFds()).toBe(before);
});

const refusedInputs: readonly Refused[] = [
  { name: "nothing", code: "not_found" },
  { name: "a file", code: "invalid_argument", make: makeFile },
  { name: "a directory", code: "invalid_argument", make: makeDirectory },
  { name: "a symbolic link", code: "invalid_argument", make: makeLink },
  { name: "a socket", code: "invalid_argument", make: makeSocket },
];

test.each(refusedInputs)("openInput() of $name is $code", async ({ make, code }) => {
  await using dir = createTempDir();
  await make?.(dir);
  const before = openFds();

  expect(() => openInput(dir.join("x"))).toThrow(expect.objectContaining({ code }));

  expect(openFds()).toBe(before);
});
