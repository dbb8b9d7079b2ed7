import { RuntimeError } from "../base/errors.ts";
import { runtime } from "../gen/sandbox.js";

type UserNamespace = runtime.v1.UserNamespace.$Properties;

/**
 * Refuses a user namespace of a pod that containers could not be made in, as containerd does for pods with a pause container:
 * here nothing but the first container would show it. The containers' specifications bring the mappings.
 *
 * @throws invalid_argument
 */
export function checkUserNamespace(sandboxId: string, wanted: UserNamespace | null | undefined): void {
  if (wanted === null || wanted === undefined) return;
  const refuse = (fact: string) =>
    new RuntimeError("invalid_argument", `Cannot create sandbox "${sandboxId}": its user namespace ${fact}`);
  const kinds = [wanted.uids ?? [], wanted.gids ?? []];
  for (const mappings of kinds) {
    if (mappings.length > 1) throw refuse(`has ${mappings.length} mappings of one kind, expected one`);
    if (mappings.some(({ length }) => (length ?? 0) < 1)) throw refuse("has a mapping of no ids");
  }
  const count = kinds.filter((mappings) => mappings.length > 0).length;
  const { POD, NODE } = runtime.v1.NamespaceMode;
  if (kinds.flat().some(({ containerId }) => (containerId ?? 0) !== 0)) throw refuse("does not map the id 0");
  const mode = wanted.mode ?? POD;
  if (mode === NODE && count > 0) throw refuse("is the node's, which has no mappings");
  if (mode === POD && count < 2) throw refuse("needs a mapping of users and one of groups");
  if (mode !== POD && mode !== NODE) throw refuse(`has the mode ${mode}, expected the pod's or the node's`);
}
