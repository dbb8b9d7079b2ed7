import { join } from "node:path";

/** Our own shim: beside the library in its package, in `build/bin` of the checkout when it runs as sources. */
export function defaultRuntime(): string {
  const here = import.meta.dirname;
  const build = here.endsWith("/src/tasks") ? join(here, "../../build") : join(here, "..");
  return join(build, "bin/containerd-shim-caisson-v2");
}
