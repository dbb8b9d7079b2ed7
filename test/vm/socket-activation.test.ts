import { execFileSync } from "node:child_process";
import { once } from "node:events";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { connect, createServer, type Socket } from "node:net";
import { text } from "node:stream/consumers";
import { afterAll, beforeAll, expect, test, vi } from "vitest";
import { createOciCli, type OciCli } from "../support/oci-cli.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";
import { testAll } from "../support/cli-level.ts";
import { type Running, runOk } from "../support/cli-run.ts";
import { withOpenFiles } from "../support/service-manager.ts";

/** For what a process in an emulated guest needs to be seen from here. */
const waitFor = { timeout: 30_000, interval: 50 };
const port = 20_000 + (process.pid % 10_000);

let cli: OciCli;
beforeAll(async () => {
  cli = await createOciCli();
  const source = cli.dir.join("serve.c");
  writeFileSync(source, program);
  execFileSync("gcc", ["-static", "-O1", "-o", cli.dir.join("rootfs", "serve"), source]);
});
afterAll(() => cli[Symbol.asyncDispose]());
checkLeaksAroundEachTest(() => cli.leakScope(), { cleanUp: () => cli.removeAll() });

/**
 * A socket-activated service: for each connection of any of its sockets it says which one took it and who is at the other side,
 * sends back what comes until its end, and then so many bytes more.
 */
const program = `
#define _GNU_SOURCE
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
int main(int argc, char **argv) {
  int count = atoi(getenv("LISTEN_FDS")), isOurs = getpid() == atoi(getenv("LISTEN_PID"));
  long more = argc > 1 ? atol(argv[1]) : 0;
  struct pollfd polled[8];
  for (int i = 0; i < count; i++) polled[i] = (struct pollfd){ .fd = 3 + i, .events = POLLIN };
  printf("%d %s %d\\n", count, getenv("LISTEN_FDNAMES"), isOurs);
  fflush(stdout);
  for (;;) {
    poll(polled, count, -1);
    for (int i = 0; i < count; i++) {
      if (!polled[i].revents) continue;
      int c = accept(3 + i, NULL, NULL);
      if (fork()) { close(c); continue; }
      struct ucred peer = { 0 };
      socklen_t length = sizeof peer;
      getsockopt(c, SOL_SOCKET, SO_PEERCRED, &peer, &length);
      char buffer[65536] = { 0 };
      dprintf(c, "%d %d\\n", 3 + i, (int)peer.uid);
      for (ssize_t n; (n = read(c, buffer, sizeof buffer)) > 0;) write(c, buffer, n);
      memset(buffer, 'x', sizeof buffer);
      for (long left = more; left > 0; left -= sizeof buffer) write(c, buffer, left < sizeof buffer ? left : sizeof buffer);
      exit(0);
    }
  }
}`;

async function request(socket: Socket, words: string): Promise<string> {
  socket.end(words);
  return await text(socket);
}

/** Why nobody takes a connection, or nothing if one was taken: it is given up then, however its peer ends it. */
async function connectError(port: number): Promise<string | undefined> {
  const socket = connect(port, "127.0.0.1");
  const errors: string[] = [];
  socket.on("error", (error: NodeJS.ErrnoException) => errors.push(error.code ?? error.message));
  socket.once("connect", () => socket.destroy());
  await new Promise((resolve) => socket.once("close", resolve));
  return errors[0];
}

test("LISTEN_FDS: the process in the guest serves the caller's sockets, until it ends", async () => {
  const id = cli.id("activated");
  const path = cli.dir.join("service.sock");
  const output = cli.dir.join("activated.out");
  const more = 3_000_000;
  const bundle = cli.bundle("activated", ["/serve", String(more)]);
  const launcher = withOpenFiles([
    { kind: "unix", path },
    { kind: "tcp", port },
  ]);

  expect(await cli.detached(["create", "-b", bundle, id], output, {}, launcher)).toMatchObject({
    exitCode: 0,
  });
  // It waits until somebody accepts.
  const early = request(connect(path), "early");
  await cli.ok(["start", id]);

  const answer = (fd: number, uid: number, words: string) => `${fd} ${uid}\n${words}${"x".repeat(more)}`;
  expect(await early).toBe(answer(3, 65534, "early"));
  const answers = await Promise.all([
    ...[1, 2, 3, 4].map((n) => request(connect(path), `unix ${n}`)),
    ...[1, 2, 3, 4].map((n) => request(connect(port, "127.0.0.1"), `tcp ${n}`)),
  ]);
  expect(answers.slice(0, 4)).toEqual([1, 2, 3, 4].map((n) => answer(3, 65534, `unix ${n}`)));
  // Loopback TCP has no credentials.
  expect(answers.slice(4)).toEqual([1, 2, 3, 4].map((n) => answer(4, -1, `tcp ${n}`)));
  expect(readFileSync(output, "utf8")).toBe("2 name1:name2 1\n");

  // A client that does not read stops nobody else.
  const idle = connect(path);
  idle.on("error", () => {});
  idle.end("idle");
  expect(await request(connect(path), "next")).toBe(answer(3, 65534, "next"));

  await cli.ok(["kill", id, "KILL"]);
  idle.resume();
  await once(idle, "close");
  await vi.waitFor(async () => expect(await connectError(port)).toBe("ECONNREFUSED"), waitFor);
  await cli.ok(["delete", id]);
});

test("what cannot be handed over is refused before anything is made, with its number and kind", async () => {
  const bundle = cli.bundle("refused", ["true"]);
  const refused = async (args: readonly string[], launcher: readonly string[]) => {
    const running = cli.start(["create", ...args, "-b", bundle, cli.id("refused")], launcher);
    const [stderr, { exitCode }] = await Promise.all([text(running.stderr), running.ended]);
    expect(exitCode).toBe(1);
    return stderr;
  };
  writeFileSync(cli.dir.join("file"), "");

  const datagram = withOpenFiles([{ kind: "datagram", path: cli.dir.join("datagram.sock") }]);
  expect(await refused([], datagram)).toContain(
    "file descriptor 3 (of LISTEN_FDS) is a unix datagram socket, which cannot be handed into a VM",
  );
  const file = withOpenFiles([{ kind: "read", path: cli.dir.join("file") }]);
  expect(await refused(["--preserve-fds", "1"], file)).toContain(
    "file descriptor 3 (of --preserve-fds) is a file, which cannot be handed into a VM",
  );
  expect(await refused(["--preserve-fds", "2"], file)).toContain("is a file");
  expect(await cli.run(["state", cli.id("refused")])).toMatchObject({ exitCode: 1 });
});

test("exec --preserve-fds: a connected socket and both ends of pipes are the process's in the guest", async () => {
  const id = cli.id("exec");
  await cli.detached(["run", "-d", "-b", cli.bundle("exec", ["sleep", "1000"]), id], "/dev/null");

  await servesFiles("exec", (launcher, script) =>
    cli.start(["exec", "--preserve-fds", "3", id, "sh", "-c", script], launcher),
  );
  await cli.ok(["delete", "--force", id]);
});

testAll("run --preserve-fds: they are the container's process's", () =>
  servesFiles("run", (launcher, script) => {
    const bundle = cli.bundle("preserved", ["sh", "-c", script]);
    return cli.start(["run", "--preserve-fds", "3", "-b", bundle, cli.id("preserved")], launcher);
  }),
);

/** `start` runs the script with three further open files, by the launcher. */
async function servesFiles(
  name: string,
  start: (launcher: readonly string[], script: string) => Running,
): Promise<void> {
  const directory = cli.dir.join(`${name}-files`);
  mkdirSync(directory);
  const [input, output, path] = [`${directory}/in`, `${directory}/out`, `${directory}/peer`];
  execFileSync("mkfifo", [input, output]);
  const server = createServer({ allowHalfOpen: true }).listen(path);
  await once(server, "listening");
  const accepted = once(server, "connection");
  const launcher = withOpenFiles([
    { kind: "read", path: input },
    { kind: "write", path: output },
    { kind: "connected", path },
  ]);
  const running = start(launcher, "cat <&3 >&4; echo end >&4; exec 4>&-; cat <&5 >&5; exit 4");
  const big = "y".repeat(1_000_000);
  const feed = runOk(["sh", "-c", `head -c 1000000 /dev/zero | tr '\\0' y >${input}`]);
  const read = runOk(["cat", output]);
  const [peer] = (await accepted) as [Socket];

  expect((await read).stdout).toBe(`${big}end\n`);
  expect(await request(peer, "there and back")).toBe("there and back");
  expect(await running.ended).toMatchObject({ exitCode: 4 });
  await feed;
  server.close();
}
