import { RuntimeError } from "../../base/errors.ts";
import { foreignText } from "../../base/log.ts";
import { abortable } from "../../base/scope.ts";
import { type Qmp, unavailable } from "./qmp.ts";
import type { QmpEvents } from "./qmp-events.ts";

/*
 * A VM is saved and restored as a migration to a file and from it (qapi/migration.json). With x-ignore-shared the memory stays out of it: it
 * lies in a file that the VM was started with.
 */

interface QemuParts {
  readonly qmp: Qmp;
  readonly events: QmpEvents;
}

const fdName = "state";

/** Stops the guest and writes the state of its devices to `stateFd`. @throws failed_precondition  see `RunningVm.save` */
export async function saveVm(
  { qmp, events }: QemuParts,
  stateFd: number,
  signal: AbortSignal,
): Promise<void> {
  await prepare(qmp, stateFd, signal);
  await qmp.execute("stop", undefined, { signal });
  await migrate("migrate", { qmp, events }, signal);
}

/** Reads the state of the devices from `stateFd` into a QEMU that waits for it, and has the guest go on. */
export async function restoreVm(
  { qmp, events }: QemuParts,
  stateFd: number,
  signal: AbortSignal,
): Promise<void> {
  await prepare(qmp, stateFd, signal);
  await migrate("migrate-incoming", { qmp, events }, signal);
  await qmp.execute("cont", undefined, { signal });
}

async function prepare(qmp: Qmp, stateFd: number, signal: AbortSignal): Promise<void> {
  const capabilities = ["x-ignore-shared", "events"].map((capability) => ({ capability, state: true }));
  await qmp.execute("migrate-set-capabilities", { capabilities }, { signal });
  await qmp.execute("getfd", { fdname: fdName }, { signal, fd: stateFd });
}

/** Resolves when it is over; the command's answer only says that it has begun. */
async function migrate(
  command: "migrate" | "migrate-incoming",
  { qmp, events }: QemuParts,
  signal: AbortSignal,
): Promise<void> {
  const over = Promise.withResolvers<string>();
  // A QEMU that cannot restore ends itself.
  void qmp.ended.then((reason) => over.reject(unavailable(command, reason)));
  over.promise.catch(() => {
    // It may end after this, too.
  });
  const forget = events.listen(({ name, data }) => {
    const status = String(data["status"]);
    if (name === "MIGRATION" && (status === "completed" || status === "failed")) over.resolve(status);
  });
  try {
    await qmp.execute(command, { uri: `fd:${fdName}` }, { signal }).catch((cause: unknown) => {
      throw refused(command, cause);
    });
    if ((await abortable(over.promise, signal)) === "completed") return;
  } finally {
    forget();
  }
  const answer = await qmp.execute("query-migrate", undefined, { signal });
  throw new RuntimeError(
    "failed_precondition",
    `Cannot ${words[command]}: ${foreignText(JSON.stringify(answer))}`,
  );
}

const words = { migrate: "save the VM", "migrate-incoming": "restore the VM" };

function refused(command: "migrate" | "migrate-incoming", cause: unknown): unknown {
  if (!(cause instanceof RuntimeError) || cause.code !== "internal") return cause;
  return new RuntimeError("failed_precondition", `Cannot ${words[command]}: ${cause.message}`, { cause });
}
