import { execFileSync } from "node:child_process";
import { writeFileSync } from "node:fs";
import { afterAll, beforeAll, expect, test } from "vitest";
import { createOciCli, type OciCli } from "../support/oci-cli.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";
import { listenForNotifications } from "../support/notify-host.ts";

let cli: OciCli;
beforeAll(async () => {
  cli = await createOciCli();
});
afterAll(() => cli[Symbol.asyncDispose]());
checkLeaksAroundEachTest(() => cli.leakScope(), { cleanUp: () => cli.removeAll() });

/** What a service does with libsystemd: one datagram for each argument. */
const program = `
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
int main(int argc, char **argv) {
  struct sockaddr_un to = { .sun_family = AF_UNIX };
  strcpy(to.sun_path, getenv("NOTIFY_SOCKET"));
  int s = socket(AF_UNIX, SOCK_DGRAM, 0);
  for (int i = 1; i < argc; i++)
    if (sendto(s, argv[i], strlen(argv[i]), 0, (void *)&to, sizeof to) < 0) return 1;
  pause();
}`;

test("NOTIFY_SOCKET: what a service says of itself reaches the caller's service manager", async () => {
  const source = cli.dir.join("notify.c");
  writeFileSync(source, program);
  execFileSync("gcc", ["-static", "-O1", "-o", cli.dir.join("rootfs", "notify"), source]);
  const socket = cli.dir.join("notify.sock");
  await using manager = await listenForNotifications(socket);
  const id = cli.id("notify");
  const ready = "READY=1\nSTATUS=serving\nMAINPID=1\nFDSTORE=1";
  const bundle = cli.bundle("notify", ["/notify", "STATUS=starting", ready]);

  await cli.detached(["run", "--detach", "-b", bundle, id], cli.dir.join("notify.out"), {
    NOTIFY_SOCKET: socket,
  });

  const { pid } = await cli.state(id);
  expect(await manager.next()).toBe("STATUS=starting");
  expect(await manager.next()).toBe(`READY=1|STATUS=serving|MAINPID=${pid}`);
  await cli.ok(["delete", "--force", id]);
});
