import { type Check, error, isOlder, ok, versionIn, warning } from "./finding.ts";

const shim = "containerd-shim-caisson-v2";
const configPath = "/etc/containerd/config.toml";
const runtimeType = "io.containerd.caisson.v2";
const oldestContainerd = [1, 6];
/** Where containerd looks for shims, as far as its service's PATH goes. */
const programDirectories = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];
const cniDirectories = ["/opt/cni/bin", "/usr/lib/cni", "/usr/libexec/cni"];

/** Containerd is not needed for `caisson run`: without it nothing is wrong. */
const absent = "not installed (needed for ctr, nerdctl, Docker and Kubernetes only)";

export const containerd: Check = async ({ probe }) => {
  const name = "containerd";
  const result = await probe.run(["containerd", "--version"]);
  if (result.tag === "missing") return ok(name, absent);
  if (result.tag === "failed")
    return warning(name, {
      finding: result.words,
      why: "it does not run",
      remedy: "systemctl status containerd",
    });
  const version = versionIn(result.output) ?? [];
  if (!isOlder(version, oldestContainerd)) return ok(name, version.join("."));
  return error(name, {
    finding: `version ${version.join(".")}, expected ${oldestContainerd.join(".")} or newer`,
    why: "older ones speak another protocol with shims",
    remedy: "apt-get install containerd",
  });
};

export const containerdRuntime: Check = async ({ probe }) => {
  const name = "containerd's runtime";
  if ((await probe.run(["containerd", "--version"])).tag === "missing") return ok(name, absent);
  const places = programDirectories.map((directory) => `${directory}/${shim}`);
  const found = await Promise.all(places.map((path) => probe.isExecutable(path)));
  if (!found.includes(true)) {
    return warning(name, {
      finding: `${shim} is not in ${programDirectories.join(", ")}`,
      why: "containerd starts it by this name from its PATH",
      remedy: "make install",
    });
  }
  const text = (await probe.readText(configPath)) ?? "";
  if (text.includes(runtimeType)) return ok(name, `${shim} is installed and ${configPath} names it`);
  return warning(name, {
    finding: `${configPath} does not name ${runtimeType}`,
    why: "Kubernetes finds it by a runtime of that type (docs/containerd.md); ctr and nerdctl do without",
    remedy: `add a runtime with runtime_type = "${runtimeType}" to ${configPath}, then systemctl restart containerd`,
  });
};

export const cni: Check = async ({ probe }) => {
  const name = "CNI";
  if ((await probe.run(["containerd", "--version"])).tag === "missing") return ok(name, absent);
  const lists = await Promise.all(cniDirectories.map((directory) => probe.list(directory)));
  const plugins = lists.flatMap((names) => names ?? []);
  const networks = ((await probe.list("/etc/cni/net.d")) ?? []).filter((file) => /\.conf(list)?$/.test(file));
  const why = "pods and nerdctl's containers get their network from CNI";
  if (!plugins.includes("loopback") && !plugins.includes("bridge")) {
    const finding = `no plugins in ${cniDirectories.join(", ")}`;
    return warning(name, { finding, why, remedy: "apt-get install containernetworking-plugins" });
  }
  if (networks.length > 0) return ok(name, `${plugins.length} plugins, ${networks.length} networks`);
  return warning(name, {
    finding: "no network in /etc/cni/net.d",
    why,
    remedy: "install your cluster's network, or write a .conflist (docs/containerd.md)",
  });
};
