import { checkId } from "../base/ids.ts";
import type { Handlers } from "../ttrpc/method.ts";
import type { Life } from "./life.ts";
import type { shimMethods } from "./shim-api.ts";

/** What our own `start` and `delete` ask of the daemon. */
export function shimService(life: Life): Handlers<typeof shimMethods> {
  return {
    attach(request) {
      life.announce(checkId("container id", request.containerId));
      return { pid: process.pid };
    },

    async remove(request) {
      return { remaining: await life.remove(checkId("container id", request.containerId)) };
    },
  };
}
