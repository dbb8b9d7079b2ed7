/** The library: `import { Sandbox } from "caisson"`. */
export { type Code as ErrorCode, RuntimeError as CaissonError } from "./base/errors.ts";
export { containerSpec, type ContainerSpecOptions } from "./library/container-spec.ts";
export { CommandError } from "./library/errors.ts";
export type { SandboxEvent } from "./library/events.ts";
export type {
  CopyInOptions,
  CopyOutOptions,
  LogEntry,
  ProcessExit,
  ReadFileOptions,
  RunOptions,
  RunResult,
  SandboxLimits,
  SandboxMount,
  SandboxOptions,
  SpawnOptions,
  TemplateOptions,
  WriteFileOptions,
} from "./library/options.ts";
export type { ForwardPortOptions, PortForward } from "./library/port-forward.ts";
export type { SandboxProcess } from "./library/process.ts";
export { Sandbox } from "./library/sandbox.ts";
export { Template } from "./library/template.ts";
export {
  Container,
  type ContainerConfig,
  type LoadContainerOptions,
  type ProcessOptions,
} from "./tasks/container.ts";
export type { ContainerProcess } from "./tasks/process.ts";
export {
  type Task,
  TaskManager,
  type TaskManagerOptions,
  type TaskRequest,
  type TaskRoot,
} from "./tasks/task-manager.ts";
export type { TaskClient, TaskStatus } from "./client/task-client.ts";
export type { ContainerStats as SandboxStats, ExitStatus, Mount, Stdio } from "./sandbox/model.ts";
