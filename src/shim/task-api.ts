import { containerd, google } from "../gen/containerd.js";
import { method } from "../ttrpc/method.ts";

const v2 = containerd.task.v2;
const { Empty } = google.protobuf;

/** One service under two names: the messages are the same. Version 3 is what containerd 2.x prefers. */
export const taskServiceNames = ["containerd.task.v2.Task", "containerd.task.v3.Task"] as const;

/** The task service, for those who serve it and those who call it. */
export const taskMethods = {
  state: method("State", v2.StateRequest, v2.StateResponse),
  create: method("Create", v2.CreateTaskRequest, v2.CreateTaskResponse),
  start: method("Start", v2.StartRequest, v2.StartResponse),
  delete: method("Delete", v2.DeleteRequest, v2.DeleteResponse),
  pids: method("Pids", v2.PidsRequest, v2.PidsResponse),
  pause: method("Pause", v2.PauseRequest, Empty),
  resume: method("Resume", v2.ResumeRequest, Empty),
  checkpoint: method("Checkpoint", v2.CheckpointTaskRequest, Empty),
  kill: method("Kill", v2.KillRequest, Empty),
  exec: method("Exec", v2.ExecProcessRequest, Empty),
  resizePty: method("ResizePty", v2.ResizePtyRequest, Empty),
  closeIo: method("CloseIO", v2.CloseIORequest, Empty),
  update: method("Update", v2.UpdateTaskRequest, Empty),
  wait: method("Wait", v2.WaitRequest, v2.WaitResponse, { waits: true }),
  stats: method("Stats", v2.StatsRequest, v2.StatsResponse),
  connect: method("Connect", v2.ConnectRequest, v2.ConnectResponse),
  shutdown: method("Shutdown", v2.ShutdownRequest, Empty),
};
