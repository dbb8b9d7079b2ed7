/** What a helper process may do; everything else is dropped before it is executed. */
export interface Privileges {
  /** Undefined: stay root (only virtiofsd, which serves files of every owner). */
  readonly user?: { readonly uid: number; readonly gid: number };
  /** Supplementary groups, for a device that belongs to a group (/dev/kvm). Default: none. */
  readonly groups?: readonly number[];
  /** Capabilities kept in the bounding set, lower case without "cap_" ("chown"). */
  readonly capabilities: readonly string[];
  /** Network namespace to enter first (a path), or undefined to stay. */
  readonly netnsPath?: string;
}

/**
 * The argv that runs `argv` with only `privileges`: no new privileges, no supplementary groups, killed with its parent.
 *
 * `setpriv` changes the user before it sets the parent-death signal (a credential change clears it, prctl(2)), and
 * `nsenter` comes first because it needs CAP_SYS_ADMIN. Both execute in place, so the pid is the program's.
 */
export function planLaunch(argv: readonly string[], privileges: Privileges): string[] {
  const { user, groups = [], capabilities, netnsPath } = privileges;
  const bounding = ["-all", ...capabilities.map((name) => `+${name}`)].join(",");
  return [
    ...(netnsPath === undefined ? [] : ["nsenter", `--net=${netnsPath}`, "--"]),
    "setpriv",
    ...(user === undefined ? [] : [`--reuid=${user.uid}`, `--regid=${user.gid}`]),
    groups.length === 0 ? "--clear-groups" : `--groups=${groups.join(",")}`,
    "--no-new-privs",
    `--bounding-set=${bounding}`,
    "--inh-caps=-all",
    "--pdeathsig=SIGKILL",
    "--",
    ...argv,
  ];
}
