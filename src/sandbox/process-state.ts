import { RuntimeError } from "../base/errors.ts";
import type { ProcessState } from "./model.ts";

type Tag = ProcessState["tag"];

const edges: { readonly [T in Tag]: readonly Tag[] } = {
  // Init can be killed before it was started; an exec that never started is deleted as it is.
  created: ["starting", "stopped", "deleted"],
  // An exec that cannot be started (no such program) stays created.
  starting: ["running", "created", "stopped"],
  running: ["pausing", "stopped"],
  // A guest that refuses to freeze it leaves it running.
  pausing: ["paused", "running", "stopped"],
  paused: ["running", "stopped"],
  stopped: ["deleted"],
  deleted: [],
};

/** The only way to change the state of a process. @throws internal for an edge that does not exist */
export function transition<S extends ProcessState>(from: ProcessState, to: S): S {
  if (!edges[from.tag].includes(to.tag)) {
    throw new RuntimeError("internal", `Cannot change a process from ${from.tag} to ${to.tag}`);
  }
  return to;
}
