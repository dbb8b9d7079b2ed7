import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { configName, socketName } from "./containerd-process.ts";
import type { CriNetwork } from "./cri-network.ts";
import { withSuiteSettings } from "./suite-settings.ts";
import type { TempDir } from "./temp-dir.ts";

/** Of containerd's configuration file: 2 is what 1.6 and 1.7 read, 3 what 2.x writes. */
export type ConfigVersion = 2 | 3;

export const pauseImage = "registry.k8s.io/pause:3.10";

const deployed = join(import.meta.dirname, "../../deploy/containerd");

/** Writes containerd's configuration, with Caisson's handlers from the file that users get; returns Caisson's own. */
export function writeCriConfiguration(
  dir: TempDir,
  network: CriNetwork,
  { version, settings }: { readonly version: ConfigVersion; readonly settings: string },
): string {
  writeFileSync(
    dir.join(configName),
    `version = ${version}
root = "${dir.join("root")}"
state = "${dir.join("state")}"
imports = [${version === 3 ? `"${join(deployed, "caisson-v3.toml")}"` : ""}]
disabled_plugins = ["io.containerd.tracing.processor.v1.otlp", "io.containerd.internal.v1.tracing"]
[grpc]
address = "${dir.join(socketName)}"
[debug]
level = "debug"
[plugins."io.containerd.internal.v1.opt"]
path = "${dir.join("opt")}"
[plugins."io.containerd.nri.v1.nri"]
disable = true
${version === 2 ? criOfVersion2(network) : criOfVersion3(network)}`,
  );
  const sandboxes = dir.join("run");
  mkdirSync(sandboxes);
  const caissonConfig = dir.join("caisson.toml");
  writeFileSync(
    caissonConfig,
    withSuiteSettings(
      `state_directory = "${sandboxes}"\ndata_directory = "${dir.join("data")}"\n${settings}`,
    ),
  );
  return caissonConfig;
}

function criOfVersion2({ cniDirectory, registryDirectory }: CriNetwork): string {
  const cri = "io.containerd.grpc.v1.cri";
  return `[plugins."${cri}"]
sandbox_image = "${pauseImage}"
netns_mounts_under_state_dir = true
# Where root may not lower the score, runc could not start a pause container.
restrict_oom_score_adj = true
[plugins."${cri}".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "${cniDirectory}"
[plugins."${cri}".registry]
config_path = "${registryDirectory}"
[plugins."${cri}".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
${readFileSync(join(deployed, "caisson-v2.toml"), "utf8")}`;
}

function criOfVersion3({ cniDirectory, registryDirectory }: CriNetwork): string {
  const runtime = "io.containerd.cri.v1.runtime";
  return `[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "${pauseImage}"
[plugins."io.containerd.cri.v1.images".registry]
config_path = "${registryDirectory}"
[plugins."${runtime}"]
netns_mounts_under_state_dir = true
# Where root may not lower the score, runc could not start a pause container.
restrict_oom_score_adj = true
[plugins."${runtime}".cni]
bin_dirs = ["/usr/lib/cni"]
conf_dir = "${cniDirectory}"
[plugins."${runtime}".containerd]
default_runtime_name = "caisson"
[plugins."${runtime}".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
`;
}
