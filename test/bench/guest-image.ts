import { statSync } from "node:fs";
import { findGuestFiles } from "../../src/sandbox/guest-files.ts";
import { runOk } from "../support/cli-run.ts";
import { runtime } from "../support/containerd.ts";
import { type Benchmark, eachRound } from "./bench.ts";
import { makeRow } from "./rows.ts";
import { ctrRunArgv } from "./runtimes.ts";

const group = "guest image, until a container runs";
const bytesPerSector = 512;
const mebibyte = 1024 * 1024;
/** It varies little. */
const mostRuns = 3;

/** What a guest has read of its image when its container runs: by the guest's own count. The floor is the size of the image. */
export const guestImage: Benchmark = {
  name: "guest image",
  async run(bench) {
    const { containerd, config } = bench;
    const { imagePath, initrdPath, kernelPath } = findGuestFiles(config);
    const image = statSync(imagePath).size / mebibyte;
    const read: number[] = [];
    await eachRound(bench, group, Math.min(mostRuns, bench.runs), async (round) => {
      const command = ["cat", "/sys/block/vda/stat"];
      const argv = ctrRunArgv(containerd, runtime, ["--rm"], containerd.id(`read-${round}`), ...command);
      const { stdout } = await runOk(argv);
      // The third number (Documentation/block/stat.rst).
      const sectors = Number(stdout.trim().split(/\s+/)[2]);
      read.push((sectors * bytesPerSector) / mebibyte);
      return `${read.at(-1)?.toFixed(2)} MiB of ${image.toFixed(2)} MiB`;
    });
    return [
      makeRow(group, "image, as large as it is", "MiB", [image]),
      makeRow(group, "image, as read", "MiB", read, {
        floor: [image],
        goal: { of: "ratio", is: "at most", value: 1 },
      }),
      makeRow(group, "kernel, as loaded by the VMM", "MiB", [statSync(kernelPath).size / mebibyte]),
      makeRow(group, "initrd, unpacked by the guest", "MiB", [
        initrdPath === undefined ? 0 : statSync(initrdPath).size / mebibyte,
      ]),
    ];
  },
};
