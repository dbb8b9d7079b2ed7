/** The library: `import { Sandbox } from "caisson"`. */
export { type Code as ErrorCode, RuntimeError as CaissonError } from "./base/errors.ts";
export { CommandError } from "./library/errors.ts";
export type { SandboxEvent } from "./library/events.ts";
export type { CopyInOptions, CopyOutOptions, ReadFileOptions, WriteFileOptions } from "./library/files.ts";
export type {
  LogEntry,
  ProcessExit,
  RunOptions,
  RunResult,
  SandboxLimits,
  SandboxMount,
  SandboxOptions,
  SpawnOptions,
} from "./library/options.ts";
export type { SandboxProcess } from "./library/process.ts";
export { Sandbox } from "./library/sandbox.ts";
export type { ContainerStats as SandboxStats } from "./sandbox/model.ts";
