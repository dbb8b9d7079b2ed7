import { RuntimeError } from "../base/errors.ts";
import { readFileInRootfs } from "./rootfs-file.ts";

/** A user as the OCI specification wants it. */
export interface ContainerUser {
  readonly uid: number;
  readonly gid: number;
  readonly additionalGids: readonly number[];
}

// Larger ones are an attack on whoever reads them, not a list of users.
const maxFileBytes = 1024 * 1024;
const maxGroups = 1024;
// 2^31 and up are negative in places, and 2^32-1 means "no change" (setresuid(2)).
const maxUserId = 0x7fff_ffff;

/**
 * Resolves "user[:group]" (names or numbers, empty: root) by the `/etc/passwd` and `/etc/group` in `rootfs`.
 *
 * What looks like a number is one, whatever names the files have. A user without an entry gets group 0; a group
 * that is named leaves out the user's other groups, as with Docker.
 *
 * @throws invalid_argument  no such user or group, a number out of range, unusable files
 */
export async function resolveUser(rootfs: string, text: string): Promise<ContainerUser> {
  const [userText = "", groupText, ...rest] = text.split(":");
  const refuse = (fact: string) =>
    new RuntimeError("invalid_argument", `Cannot use user ${JSON.stringify(text.slice(0, 100))}: ${fact}`);
  if (rest.length > 0 || groupText === "") throw refuse("expected USER[:GROUP]");
  const number = (value: string) => {
    if (!/^[+-]?\d+$/.test(value)) return undefined;
    const id = Number(value);
    if (!/^\d+$/.test(value) || id > maxUserId) throw refuse(`an id is a number from 0 to ${maxUserId}`);
    return id;
  };
  const wantedUid = userText === "" ? 0 : number(userText);
  const users = parseUsers(await readText(rootfs, "/etc/passwd"));
  const user = users.find((entry) =>
    wantedUid === undefined ? entry.name === userText : entry.uid === wantedUid,
  );
  const uid = wantedUid ?? user?.uid;
  if (uid === undefined) throw refuse(`the image's /etc/passwd has no user "${userText.slice(0, 100)}"`);

  const wantedGid = groupText === undefined ? undefined : number(groupText);
  if (wantedGid !== undefined) return { uid, gid: wantedGid, additionalGids: [] };
  const groups = parseGroups(await readText(rootfs, "/etc/group"));
  if (groupText !== undefined) {
    const group = groups.find((entry) => entry.name === groupText);
    if (group === undefined) throw refuse(`the image's /etc/group has no group "${groupText.slice(0, 100)}"`);
    return { uid, gid: group.gid, additionalGids: [] };
  }
  const gid = user?.gid ?? 0;
  const member = user === undefined ? [] : groups.filter((entry) => entry.members.includes(user.name));
  const additionalGids = [...new Set(member.map((entry) => entry.gid))].filter((id) => id !== gid);
  if (additionalGids.length > maxGroups) {
    throw refuse(`it is in ${additionalGids.length} groups, at most ${maxGroups} are accepted`);
  }
  return { uid, gid, additionalGids };
}

async function readText(rootfs: string, path: string): Promise<string> {
  const content = await readFileInRootfs(rootfs, path, maxFileBytes);
  return content?.toString("utf8") ?? "";
}

/** Lines that are no proper entry are left out. */
function parseUsers(text: string) {
  return text.split("\n").flatMap((line) => {
    const [name = "", , uid = "", gid = ""] = line.split(":");
    return name !== "" && isId(uid) && isId(gid) ? [{ name, uid: Number(uid), gid: Number(gid) }] : [];
  });
}

function parseGroups(text: string) {
  return text.split("\n").flatMap((line) => {
    const [name = "", , gid = "", members = ""] = line.split(":");
    return name !== "" && isId(gid) ? [{ name, gid: Number(gid), members: members.split(",") }] : [];
  });
}

function isId(text: string): boolean {
  return /^\d{1,10}$/.test(text) && Number(text) <= maxUserId;
}
