import { containerd } from "../gen/sandbox.js";
import { method } from "../ttrpc/method.ts";

const v1 = containerd.runtime.sandbox.v1;

/** The Sandbox API of containerd 2. */
export const sandboxServiceName = "containerd.runtime.sandbox.v1.Sandbox";

export const sandboxMethods = {
  createSandbox: method("CreateSandbox", v1.CreateSandboxRequest, v1.CreateSandboxResponse),
  startSandbox: method("StartSandbox", v1.StartSandboxRequest, v1.StartSandboxResponse),
  platform: method("Platform", v1.PlatformRequest, v1.PlatformResponse),
  stopSandbox: method("StopSandbox", v1.StopSandboxRequest, v1.StopSandboxResponse),
  waitSandbox: method("WaitSandbox", v1.WaitSandboxRequest, v1.WaitSandboxResponse, { waits: true }),
  sandboxStatus: method("SandboxStatus", v1.SandboxStatusRequest, v1.SandboxStatusResponse),
  pingSandbox: method("PingSandbox", v1.PingRequest, v1.PingResponse),
  shutdownSandbox: method("ShutdownSandbox", v1.ShutdownSandboxRequest, v1.ShutdownSandboxResponse),
  sandboxMetrics: method("SandboxMetrics", v1.SandboxMetricsRequest, v1.SandboxMetricsResponse),
};
