import type { StreamName } from "../agent-client/streams.ts";
import type { Code } from "../base/errors.ts";
import type { Phase } from "./timeline.ts";

/** Told what happens inside a sandbox, for metrics. Its methods return at once and never throw. */
export interface SandboxObserver {
  /** A part of a start is over, well or not. Names that begin with "guest:" come from the guest. */
  onPhase(phase: Phase): void;
  /** A VM has booted up to its configured agent, or failed to. */
  onBoot(seconds: number, error: Code | undefined): void;
  /** The VM has ended without having been told to. */
  onVmLost(reason: string): void;
  /** Bytes of a process's stream were taken over. */
  onBytes(stream: StreamName, count: number): void;
  /** A call to the guest's agent is over. */
  onAgentCall(method: string, seconds: number, error: Code | undefined): void;
}
