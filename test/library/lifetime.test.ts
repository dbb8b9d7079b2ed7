import { existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { once } from "node:events";
import { createInterface } from "node:readline";
import { join } from "node:path";
import { afterAll, beforeAll, expect, test } from "vitest";
import { image } from "../support/cli.ts";
import { type Running, start } from "../support/cli-run.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";
import { createLibrary, type Library } from "../support/library.ts";

let library: Library;
beforeAll(async () => {
  library = await createLibrary();
});
afterAll(() => library[Symbol.asyncDispose]());
// What a killed program leaves on the disk is there until the next one: each test ends with one.
checkLeaksAroundEachTest(() => library.leakScope());

/** A program that makes a sandbox, prints its id, and goes on with `rest`. */
function program(rest: string): Running {
  const path = library.dir.join("program.mjs");
  const source = join(import.meta.dirname, "../../src/index.ts");
  const options = JSON.stringify({ image });
  writeFileSync(
    path,
    `import { Sandbox } from ${JSON.stringify(source)};
const sandbox = await Sandbox.create({ ...${options}, onLog: () => {} });
process.stdout.write(sandbox.id + "\\n");
${rest}
`,
  );
  return start([process.execPath, "--no-warnings", path], { env: library.env });
}

async function idOf(running: Running): Promise<string> {
  const [line] = (await once(createInterface({ input: running.stdout }), "line")) as [string];
  return line;
}

/** Processes whose command line names the sandbox, or its directory, or that run in it. */
const readCommandLine = (pid: string) => readFileSync(`/proc/${pid}/cmdline`);

function processesOf(sandboxId: string): string[] {
  return readdirSync("/proc").filter((pid) => {
    if (!/^\d+$/.test(pid)) return false;
    try {
      return new TextDecoder().decode(readCommandLine(pid)).includes(sandboxId);
    } catch {
      return false;
    }
  });
}

const stateOf = (sandboxId: string) => library.dir.join("run/library", sandboxId);

test("a program that forgets to close comes to its end, and everything of the sandbox is gone", async () => {
  await using running = program("");
  const sandboxId = await idOf(running);

  expect(await running.ended).toMatchObject({ exitCode: 0, timedOut: false });
  expect(existsSync(stateOf(sandboxId))).toBe(false);
});

test("what is waited for keeps the program running", async () => {
  await using running = program(
    'const { stdout } = await sandbox.run("sh", ["-c", "sleep 1; echo late"]); console.log(stdout);',
  );
  const lines = createInterface({ input: running.stdout })[Symbol.asyncIterator]();
  await lines.next();

  expect((await lines.next()).value).toBe("late");
  expect(await running.ended).toMatchObject({ exitCode: 0 });
});

test.for([
  { how: "throws", rest: 'throw new Error("oops");', isKilled: false },
  { how: "calls process.exit", rest: "process.exit(3);", isKilled: false },
  { how: "is killed", rest: 'await sandbox.run("sleep", ["1000"]);', isKilled: true },
])("a program that $how leaves no process, and the next one removes the rest", async ({ rest, isKilled }) => {
  await using running = program(rest);
  const sandboxId = await idOf(running);
  if (isKilled) {
    expect(processesOf(sandboxId)).not.toEqual([]);
    running.child.kill("SIGKILL");
  }
  await running.ended;

  await expect.poll(() => processesOf(sandboxId), { timeout: 30_000 }).toEqual([]);
  await using next = program("await sandbox.close();");
  await next.ended;
  expect(existsSync(stateOf(sandboxId))).toBe(false);
  expect(existsSync(library.dir.join("data/sandboxes", sandboxId))).toBe(false);
});

test("the sandbox of a program that lives is left alone by another", async () => {
  await using first = program(
    'process.stdin.once("data", async () => { console.log((await sandbox.run("echo", ["alive"])).stdout); await sandbox.close(); process.stdin.destroy(); });',
  );
  const lines = createInterface({ input: first.stdout })[Symbol.asyncIterator]();
  await lines.next();
  await using second = program("await sandbox.close();");
  await second.ended;
  first.stdin.write("go\n");

  expect((await lines.next()).value).toBe("alive");
  await first.ended;
});
