import { afterAll, beforeAll, expect, test } from "vitest";
import { createOciCli, type OciCli } from "../support/oci-cli.ts";
import { checkLeaksAroundEachTest } from "../support/leaks.ts";
import { buildNotifier, listenForNotifications } from "../support/notify-host.ts";

let cli: OciCli;
beforeAll(async () => {
  cli = await createOciCli();
});
afterAll(() => cli[Symbol.asyncDispose]());
checkLeaksAroundEachTest(() => cli.leakScope(), { cleanUp: () => cli.removeAll() });

test("NOTIFY_SOCKET: what a service says of itself reaches the caller's service manager", async () => {
  buildNotifier(cli.dir.join("rootfs", "notify"));
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
