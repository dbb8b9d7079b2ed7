import { containerd } from "../gen/containerd.js";
import type { SandboxEvent } from "../sandbox/model.ts";
import { fromMount, toExit } from "./convert.ts";

/** An event as containerd takes it. */
export interface TaskEvent {
  readonly topic: string;
  readonly typeUrl: string;
  readonly value: Uint8Array;
}

const messages = containerd.events;

/** Translates an event of the model. */
export function toTaskEvent(event: SandboxEvent): TaskEvent {
  const { container } = event;
  const containerId = container.id;
  const encoded = (topic: string, name: string, writer: { finish(): Uint8Array }): TaskEvent => ({
    topic: `/tasks/${topic}`,
    typeUrl: `containerd.events.${name}`,
    value: writer.finish(),
  });
  const { pid } = container.init;
  switch (event.type) {
    case "create": {
      const { stdin, stdout, stderr, terminal } = container.init.stdio;
      const io = { stdin, stdout, stderr, terminal };
      const rootfs = container.rootfs.map(fromMount);
      const message = { containerId, bundle: container.bundle, rootfs, io, pid };
      return encoded("create", "TaskCreate", messages.TaskCreate.encode(message));
    }
    case "start":
      return encoded("start", "TaskStart", messages.TaskStart.encode({ containerId, pid }));
    case "exec-added": {
      const message = { containerId, execId: event.execId };
      return encoded("exec-added", "TaskExecAdded", messages.TaskExecAdded.encode(message));
    }
    case "exec-started": {
      const message = { containerId, execId: event.process.execId, pid: event.process.pid };
      return encoded("exec-started", "TaskExecStarted", messages.TaskExecStarted.encode(message));
    }
    case "exit": {
      const id = event.process.execId || containerId;
      const message = { containerId, id, pid: event.process.pid, ...toExit(event.exit) };
      return encoded("exit", "TaskExit", messages.TaskExit.encode(message));
    }
    case "paused":
      return encoded("paused", "TaskPaused", messages.TaskPaused.encode({ containerId }));
    case "resumed":
      return encoded("resumed", "TaskResumed", messages.TaskResumed.encode({ containerId }));
    case "oom":
      return encoded("oom", "TaskOOM", messages.TaskOOM.encode({ containerId }));
    case "delete": {
      const message = { containerId, pid, ...toExit(event.exit) };
      return encoded("delete", "TaskDelete", messages.TaskDelete.encode(message));
    }
  }
}
