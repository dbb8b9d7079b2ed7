import { checkId } from "../base/ids.ts";
import type { Log } from "../base/log.ts";
import { abortable } from "../base/scope.ts";
import { takeDescriptors } from "../sandbox/descriptors.ts";
import { HandedDescriptors } from "../sandbox/handed-descriptors.ts";
import type { Container, Process, Sandbox } from "../sandbox/model.ts";
import type { Handlers } from "../ttrpc/method.ts";
import {
  toCreateRequest,
  toExecRequest,
  toExit,
  toLinuxResources,
  toProcessInfos,
  toSignal,
  toStateResponse,
} from "./convert.ts";
import { hostCgroupVersion } from "../base/cgroups.ts";
import type { Life } from "./life.ts";
import { type RawOptions, readTaskOptions } from "./options.ts";
import type { taskMethods } from "./task-api.ts";

export interface TaskServiceOptions {
  readonly sandbox: Sandbox;
  readonly life: Life;
  readonly log: Log;
  /** Those that the sandbox was started with. */
  readonly options: RawOptions | undefined;
}

/** The task service on top of the model. Checkpoint is missing: it answers Unimplemented. */
export function taskService({
  sandbox,
  life,
  log,
  options,
}: TaskServiceOptions): Handlers<typeof taskMethods> {
  const containerOf = (request: { id: string }): Container =>
    sandbox.container(checkId("container id", request.id));
  const processOf = (request: { id: string; execId: string }): Process =>
    containerOf(request).process(request.execId === "" ? "" : checkId("exec id", request.execId));

  return {
    async create(request, { signal }) {
      const taskOptions = readTaskOptions(request.options, options, log);
      const wanted = toCreateRequest(request, taskOptions);
      return await withDescriptors(taskOptions.own, async (handed) => {
        const container = await life.create({ ...wanted, ...handed }, signal);
        return { pid: container.init.pid };
      });
    },

    async start(request) {
      const process = processOf(request);
      await containerOf(request).start(request.execId);
      return { pid: process.pid };
    },

    state(request) {
      return toStateResponse(containerOf(request), processOf(request));
    },

    async wait(request, { signal }) {
      return toExit(await abortable(processOf(request).wait(), signal));
    },

    async kill(request) {
      await processOf(request).kill(toSignal(request.signal), request.all);
      return {};
    },

    async delete(request) {
      processOf(request);
      const { exit, pid } = await containerOf(request).delete(request.execId);
      if (request.execId === "") life.onDelete();
      return { pid, ...toExit(exit) };
    },

    async exec(request) {
      const container = containerOf(request);
      const { own, ...wanted } = toExecRequest(request);
      await withDescriptors(own, (handed) => container.exec({ ...wanted, ...handed }));
      return {};
    },

    async resizePty(request) {
      await processOf(request).resize(request.width, request.height);
      return {};
    },

    closeIo(request) {
      const process = processOf(request);
      if (request.stdin) process.closeStdin();
      return {};
    },

    async pause(request) {
      await containerOf(request).pause();
      return {};
    },

    async resume(request) {
      await containerOf(request).resume();
      return {};
    },

    async update(request) {
      const container = containerOf(request);
      await container.update(toLinuxResources(request));
      return {};
    },

    async stats(request) {
      const stats = await containerOf(request).stats();
      // Nobody may ever ask, and the messages are large.
      const { toCgroupStats } = await import("./cgroup-stats.ts");
      return { stats: toCgroupStats(stats, await hostCgroupVersion()) };
    },

    pids(request) {
      return { processes: toProcessInfos(containerOf(request)) };
    },

    connect(request) {
      const container = sandbox.containers.find(({ id }) => id === request.id);
      return { shimPid: process.pid, taskPid: container?.init.pid ?? 0 };
    },

    shutdown(request) {
      life.shutdown(request.id);
      return {};
    },
  };
}

/** Takes descriptors of another process for what is made by `make`, which owns them when it has succeeded. */
async function withDescriptors<T>(
  from: { readonly descriptorsPid: number; readonly descriptors: readonly number[] } | undefined,
  make: (handed: { readonly descriptors?: HandedDescriptors }) => Promise<T>,
): Promise<T> {
  if (from === undefined || from.descriptors.length === 0) return await make({});
  const descriptors = new HandedDescriptors(takeDescriptors(from.descriptorsPid, [...from.descriptors]));
  try {
    return await make({ descriptors });
  } catch (error) {
    descriptors[Symbol.dispose]();
    throw error;
  }
}
