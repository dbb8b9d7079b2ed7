import { readFileSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import { type Cli, createCli, image } from "../support/cli.ts";
import { awaitSize } from "../support/cli-pty.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";

let cli: Cli;
beforeAll(async () => {
  cli = await createCli();
});
afterAll(() => cli[Symbol.asyncDispose]());
checkLeaksAroundEachTest(() => cli.leakScope(), { cleanUp: () => cli.removeAll() });

const interactive = ["run", "--rm", "-it"];

test("-t gives the command a terminal of the window's size; its exit code comes through", async () => {
  const script = `${awaitSize("33 101")}; tty; exit 7`;
  await using pty = cli.onPty([...interactive, image, "sh", "-c", script], { columns: 101, rows: 33 });

  expect(await pty.exitCode).toBe(7);
  expect(pty.output).toMatch(/\/dev\/(pts\/\d+|console)\r*\n/);
});

test("typed text arrives once, a new window size too, and Ctrl-C reaches the command, not us", async () => {
  await using pty = cli.onPty([...interactive, image, "sh"]);

  await pty.shows(/[#$] /);
  pty.type("echo $((40 + 2))-typed\n");
  await pty.shows(/42-typed/);
  // The guest's terminal echoes; ours is raw and does not.
  expect(pty.output.match(/echo \$\(\(40/g)).toHaveLength(1);

  await pty.resize(120, 50);
  pty.type(`${awaitSize("50 120")}; echo re""sized\n`);
  await pty.shows(/resized/);

  // Said by what Ctrl-C is to end: a shell that has forked and not executed yet loses the signal, on every terminal.
  pty.type("sh -c 'echo wait$((1 + 1))ing; exec sleep 1000'\n");
  await pty.shows(/wait2ing/);
  pty.type("\x03");
  await pty.shows(/\^C/);
  pty.type("echo still-$((1 + 1))-here; exit 3\n");
  await pty.shows(/still-2-here/);

  expect(await pty.exitCode).toBe(3);
});

test("our terminal is as before, whatever happens", async () => {
  const [before, after] = [cli.dir.join("before"), cli.dir.join("after")];
  const record = (file: string) => `stty -g >${file}`;
  for (const command of [["true"], ["/no/such/command"], ["sh", "-c", "kill -9 $$"]]) {
    const rest = `; ${record(after)}`;
    await using pty = cli.onPty([...interactive, image, ...command], { before: record(before) }, rest);
    await pty.exitCode;

    expect(readFileSync(after, "utf8")).toBe(readFileSync(before, "utf8"));
  }
});

test("-t without a terminal is refused before anything is made", async () => {
  const result = await cli.run([...interactive, image, "true"]);

  expect(result).toMatchObject({ exitCode: 125, stdout: "" });
  expect(result.stderr).toMatch(/terminal|TTY/i);
});

test("exec -it has a terminal of its own", async () => {
  const id = cli.id("exec-tty");
  expect(await cli.run(["run", "-d", "--name", id, image, "sleep", "3600"])).toMatchObject({ exitCode: 0 });
  {
    await using pty = cli.onPty(["exec", "-it", id, "sh", "-c", `${awaitSize("20 90")}; tty; exit 5`], {
      columns: 90,
      rows: 20,
    });

    expect(await pty.exitCode).toBe(5);
    expect(pty.output).toMatch(/\/dev\/pts\/\d+\r*\n/);
  }
  expect(await cli.run(["rm", "-f", id])).toMatchObject({ exitCode: 0 });
});
