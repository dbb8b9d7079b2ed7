import { Client, credentials, Metadata } from "@grpc/grpc-js";
import protobuf from "protobufjs/minimal.js";
import type { Containerd } from "../support/containerd.ts";
import { busyboxReference } from "../support/containerd-image.ts";
import { runtime } from "../support/containerd.ts";

const service = "/containerd.services.tasks.v1.Tasks";

export interface CreateOptions {
  readonly terminal?: boolean;
  readonly stdin?: string;
  readonly stdout?: string;
}

/**
 * containerd's task service, for the one thing that ctr cannot do: to create a task and not start it. The messages are
 * written by hand, as nothing else needs them.
 */
export interface TaskClient extends Disposable {
  /** Makes a container of the busybox image and its task. */
  create(id: string, command: readonly string[], options?: CreateOptions): Promise<void>;
  start(id: string): Promise<void>;
}

export function connectTasks(containerd: Containerd): TaskClient {
  const client = new Client(`unix:${containerd.dir.join("containerd.sock")}`, credentials.createInsecure());
  const metadata = new Metadata();
  metadata.set("containerd-namespace", containerd.namespace);
  const call = (method: string, message: Uint8Array) =>
    new Promise<void>((resolve, reject) => {
      client.makeUnaryRequest(
        `${service}/${method}`,
        (bytes: Uint8Array) => Buffer.from(bytes),
        (bytes: Buffer) => bytes,
        message,
        metadata,
        { deadline: Date.now() + 60_000 },
        (error) => (error === null ? resolve() : reject(error)),
      );
    });
  return {
    create: async (id, command, options = {}) => {
      const flags = options.terminal === true ? ["--tty"] : [];
      const image = [...flags, busyboxReference, id, ...command];
      await containerd.ctrOk(["container", "create", "--runtime", runtime, ...image]);
      const { stdout } = await containerd.ctrOk(["snapshot", "mounts", "/target", id]);
      await call("Create", encodeCreate(id, parseMount(stdout), options));
    },
    start: (id) => call("Start", protobuf.Writer.create().uint32(10).string(id).finish()),
    [Symbol.dispose]: () => client.close(),
  };
}

interface Mount {
  readonly type: string;
  readonly source: string;
  readonly options: readonly string[];
}

/** `mount -t overlay overlay /target -o lowerdir=…` */
function parseMount(line: string): Mount {
  const match = /^mount -t (\S+) (\S+) \S+ -o (\S+)\s*$/.exec(line);
  if (match === null) throw new Error(`Not one mount: ${line}`);
  return { type: match[1] ?? "", source: match[2] ?? "", options: (match[3] ?? "").split(",") };
}

/** CreateTaskRequest: 1 container_id, 3 rootfs, 4 stdin, 5 stdout, 6 stderr, 7 terminal. */
function encodeCreate(
  id: string,
  mount: Mount,
  { stdin = "", stdout = "", terminal = false }: CreateOptions,
) {
  const writer = protobuf.Writer.create().uint32(10).string(id);
  writer.uint32(26).fork().uint32(10).string(mount.type).uint32(18).string(mount.source);
  for (const option of mount.options) writer.uint32(34).string(option);
  return writer
    .ldelim()
    .uint32(34)
    .string(stdin)
    .uint32(42)
    .string(stdout)
    .uint32(56)
    .bool(terminal)
    .finish();
}
