import { containerd } from "../gen/bootstrap.js";
import { version } from "./version.ts";

const runtimeName = "io.containerd.caisson.v2";

const featuresTypeUrl = "types.containerd.io/opencontainers/runtime-spec/1/features/Features";

/** What containers may ask for, as the OCI features document says it. Nothing is claimed that has not been built. */
const features = {
  ociVersionMin: "1.0.0",
  ociVersionMax: "1.2.0",
  hooks: ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
  mountOptions: [
    "bind",
    "rbind",
    "ro",
    "rro",
    "rw",
    "nosuid",
    "suid",
    "nodev",
    "dev",
    "noexec",
    "exec",
    "relatime",
    "noatime",
    "private",
    "rprivate",
    "slave",
    "rslave",
    "idmap",
    "ridmap",
  ],
  linux: {
    namespaces: ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"],
    cgroup: { v1: false, v2: true, systemd: false, systemdUser: false },
    mountExtensions: { idmap: { enabled: true } },
  },
};

/** The bytes of `RuntimeInfo` for `-info`. The build keeps them in a file, to which the launcher adds the options from stdin. */
export function runtimeInfo(): Uint8Array {
  return containerd.types.RuntimeInfo.encode({
    name: runtimeName,
    version: { version },
    features: { type_url: featuresTypeUrl, value: Buffer.from(JSON.stringify(features)) },
    annotations: {},
  }).finish();
}
