import { execFileSync } from "node:child_process";

/** A network namespace of the test's own that stands for the network outside of a sandbox. */
export interface OutsideNetwork extends Disposable {
  readonly name: string;
  /** Address of the outside. */
  readonly address: string;
  /** Does what Docker does once it knows the pid: a veth pair into the namespace, with address and default route. */
  plug(pid: number): void;
  /** The same as a shell script, for a hook; `pid` is a word of the shell. */
  plugScript(pid: string): string;
}

/** Makes it; disposing removes it and the links that reach out of it. `name` must be unique on the host. */
export function makeOutsideNetwork(name: string): OutsideNetwork {
  execFileSync("ip", ["netns", "add", name]);
  const plugScript = (pid: string) => {
    const inside = `nsenter --net=/proc/${pid}/ns/net ip`;
    return [
      `ip -n ${name} link add out0 type veth peer name eth0 netns ${pid}`,
      `ip -n ${name} addr add 10.91.0.1/24 dev out0`,
      `ip -n ${name} link set out0 up`,
      `${inside} addr add 10.91.0.2/24 dev eth0`,
      `${inside} link set eth0 up`,
      `${inside} route add default via 10.91.0.1`,
    ].join(" && ");
  };
  return {
    name,
    address: "10.91.0.1",
    plugScript,
    plug: (pid) => void execFileSync("sh", ["-c", plugScript(String(pid))]),
    [Symbol.dispose]: () => void execFileSync("ip", ["netns", "delete", name]),
  };
}

/** A prestart hook that plugs the sandbox in, as Docker's did: it learns the pid from the state on its stdin. */
export function plugHook(outside: OutsideNetwork) {
  const findPid = `pid=$(sed -n 's/.*"pid":\\([0-9]*\\).*/\\1/p')`;
  return {
    path: "/bin/sh",
    args: ["sh", "-c", `${findPid}; ${outside.plugScript("$pid")}`],
    env: ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"],
  };
}
