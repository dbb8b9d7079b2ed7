import { expect, test } from "vitest";
import { parseRollup } from "../../bench/rollup.ts";

const recorded = `5620f8a00000-7ffd5d5e2000 ---p 00000000 00:00 0                          [rollup]
Rss:              126396 kB
Pss:               71680 kB
Pss_Dirty:         59812 kB
Pss_Anon:          29464 kB
Pss_File:          11752 kB
Pss_Shmem:         30720 kB
Shared_Clean:      31264 kB
Private_Clean:      1024 kB
Private_Dirty:     19456 kB
`;

test("parseRollup: shared memory apart from the rest, in MiB", () => {
  expect(parseRollup(recorded)).toEqual({ ownMiB: 40, sharedMiB: 30, privateMiB: 20 });
});

test("parseRollup names what is missing", () => {
  expect(() => parseRollup("Rss: 1 kB\nPss: 1 kB\n")).toThrow('no "Pss_Shmem"');
});
