import { caisson } from "../gen/bootstrap.js";
import { method } from "../ttrpc/method.ts";

const v1 = caisson.shim.v1;

/** What `start`, `delete` and the OCI command line ask of a running daemon; see proto/caisson/shim/v1/shim.proto. */
export const shimServiceName = "caisson.shim.v1.Shim";

export const shimMethods = {
  attach: method("Attach", v1.AttachRequest, v1.AttachResponse),
  remove: method("Remove", v1.RemoveRequest, v1.RemoveResponse),
  notifications: method("Notifications", v1.NotificationsRequest, v1.NotificationsResponse, { waits: true }),
  showProcesses: method("ShowProcesses", v1.ShowProcessesRequest, v1.ShowProcessesResponse),
  hold: method("Hold", v1.HoldRequest, v1.HoldResponse, { waits: true }),
};
