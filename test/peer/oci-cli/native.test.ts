import { closeSync, openSync, readSync, writeSync } from "node:fs";
import { expect, test } from "vitest";
import { loadNative } from "../../../src/base/native.ts";
import { createTempDir } from "../../support/temp-dir.ts";
import { run } from "../../support/cli-run.ts";

test("sendFd() hands a descriptor over with its data; nobody there: the errno and the path", async () => {
  await using dir = createTempDir();
  const native = loadNative();
  const path = dir.join("console.sock");
  const listener = native.listenUnix(path);
  const { master, slavePath } = native.openPty();
  native.sendFd(path, master, slavePath);
  closeSync(master);

  const received = native.receiveFd(listener);

  expect(received.data).toBe(slavePath);
  const slave = openSync(slavePath, "r+");
  writeSync(received.fd, "a\r");
  const bytes = Buffer.alloc(8);
  // Raw: neither echoed nor translated, and without waiting for a line.
  expect(bytes.subarray(0, readSync(slave, bytes)).toString()).toBe("a\r");
  for (const fd of [slave, received.fd, listener]) closeSync(fd);
  expect(() => native.sendFd(dir.join("nobody"), 1, "")).toThrow(
    expect.objectContaining({ code: "ENOENT", message: expect.stringContaining("nobody") }),
  );
});

test("setWindowSize() on the master is what getWindowSize() says of the slave", () => {
  const native = loadNative();
  const { master, slavePath } = native.openPty();
  const slave = openSync(slavePath, "r+");

  expect(native.getWindowSize(slave)).toEqual({ columns: 0, rows: 0 });
  native.setWindowSize(master, 132, 43);

  expect(native.getWindowSize(slave)).toEqual({ columns: 132, rows: 43 });
  for (const fd of [slave, master]) closeSync(fd);
  expect(() => native.getWindowSize(slave)).toThrow(expect.objectContaining({ code: "EBADF" }));
});

test.for([
  { number: 9, name: "SIGKILL" },
  { number: 11, name: "SIGSEGV" },
  { number: 15, name: "SIGTERM" },
])("dieOf($number) ends the process by $name, whatever listeners there are", async ({ number, name }) => {
  const source = [
    `import { loadNative } from ${JSON.stringify(new URL("../../../src/base/native.ts", import.meta.url).href)};`,
    `if (${number} === 15) process.on("SIGTERM", () => {});`,
    `loadNative().dieOf(${number});`,
  ].join("\n");

  const result = await run([process.execPath, "--input-type=module", "--eval", source]);

  expect(result).toMatchObject({ signal: name, stderr: "" });
});
