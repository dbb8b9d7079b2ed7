import { expect, test } from "vitest";
import { parseHostCpu } from "../../../src/hypervisor/host-cpu.ts";

const intel = (flags: string) =>
  `processor\t: 0\nmodel name\t: Intel(R) Xeon(R) Processor\ncpu MHz\t\t: 2599.998\nflags\t\t: ${flags}\nvmx flags\t: vnmi\n\nprocessor\t: 1\ncpu MHz\t\t: 800.000\nflags\t\t: ${flags}\n`;
const arm = "processor\t: 0\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd\n";

test.each([
  {
    name: "Intel with VT-x",
    text: intel("fpu vmx sse"),
    want: { hasVirtualization: true, tscKhz: 2_599_998 },
  },
  { name: "AMD with SVM", text: intel("fpu svm"), want: { hasVirtualization: true, tscKhz: 2_599_998 } },
  {
    name: "words that only contain a flag",
    text: intel("svm_lock xvmx"),
    want: { hasVirtualization: false, tscKhz: 2_599_998 },
  },
  {
    name: "cpufreq, whose momentary clock says nothing",
    text: intel("vmx"),
    base: "1900000\n",
    want: { hasVirtualization: true, tscKhz: 1_900_000 },
  },
  { name: "aarch64", text: arm, want: { hasVirtualization: false, tscKhz: undefined } },
  { name: "nothing", text: "", want: { hasVirtualization: false, tscKhz: undefined } },
])("parseHostCpu(): $name", ({ text, base, want }) => {
  expect(parseHostCpu(text, base)).toEqual(want);
});
