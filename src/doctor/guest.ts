import { dirname, join } from "node:path";
import { describe } from "../base/errors.ts";
import { findGuestFiles } from "../sandbox/guest-files.ts";
import {
  type Check,
  type CheckContext,
  error,
  type Finding,
  isOlder,
  ok,
  versionIn,
  warning,
} from "./finding.ts";

/** The kernel, its initrd and the image are there and are of one make. */
export const guestFiles: Check = async ({ probe, config }) => {
  const name = "guest";
  const remedy = "make guest";
  const why = "a VM boots from these files, and modules load into the kernel only that they were built for";
  let files: ReturnType<typeof findGuestFiles>;
  try {
    files = findGuestFiles(config);
  } catch (cause) {
    return error(name, { finding: describe(cause), why, remedy });
  }
  const described = await probe.readText(join(dirname(files.kernelPath), "kernel.json"));
  const release = releaseOf(described);
  if (release === undefined) {
    const finding = `${files.kernelPath} has no kernel.json beside it`;
    return warning(name, { finding, why: "nobody can tell whether the modules fit to it", remedy });
  }
  if (!(await probe.contains(files.kernelPath, `Linux version ${release}`))) {
    const finding = `${files.kernelPath} is not Linux ${release}, which kernel.json says it is`;
    return error(name, { finding, why, remedy });
  }
  if (files.initrdPath !== undefined && !(await probe.contains(files.initrdPath, `vermagic=${release}`))) {
    const finding = `the modules in ${files.initrdPath} are not of Linux ${release}`;
    return error(name, { finding, why, remedy });
  }
  return ok(name, `${files.kernelName}, Linux ${release}, and the image are there and match`);
};

function releaseOf(text: string | undefined): string | undefined {
  try {
    const { release } = JSON.parse(text ?? "") as { release?: unknown };
    return typeof release === "string" ? release : undefined;
  } catch {
    return undefined;
  }
}

export const hypervisor: Check = async (context) => {
  const { config } = context;
  return config.hypervisor === "qemu"
    ? await program(context, {
        name: "QEMU",
        path: config.qemuPath,
        oldest: [7, 2],
        remedy: "apt-get install qemu-system-x86",
      })
    : await program(context, {
        name: "Cloud Hypervisor",
        path: config.cloudHypervisorPath,
        oldest: [53, 0],
        remedy: "install it, or set cloud_hypervisor_path",
      });
};

export const virtiofsd: Check = async (context) =>
  await program(context, {
    name: "virtiofsd",
    path: context.config.virtiofsdPath,
    oldest: [1, 10],
    remedy: "make build, or apt-get install virtiofsd (Debian 13), or set virtiofsd_path",
  });

interface WantedProgram {
  readonly name: string;
  readonly path: string;
  readonly oldest: readonly number[];
  readonly remedy: string;
}

async function program(
  { probe }: CheckContext,
  { name, path, oldest, remedy }: WantedProgram,
): Promise<Finding> {
  const why = "no sandbox starts without it";
  const result = await probe.run([path, "--version"]);
  if (result.tag === "missing") return error(name, { finding: `there is no "${path}"`, why, remedy });
  if (result.tag === "failed") return error(name, { finding: result.words, why, remedy });
  const version = versionIn(result.output);
  if (version === undefined) {
    const finding = `"${path}" does not say its version`;
    return warning(name, { finding, why: `it has to be ${oldest.join(".")} or newer`, remedy });
  }
  const shown = version.join(".");
  if (!isOlder(version, oldest)) return ok(name, shown);
  return error(name, { finding: `version ${shown}, expected ${oldest.join(".")} or newer`, why, remedy });
}
