import { expect, test } from "vitest";
import { hostNotification } from "../../../src/oci-cli/notify.ts";

test.for([
  { text: "READY=1\nSTATUS=up", want: "READY=1\nSTATUS=up\nMAINPID=7" },
  { text: "STATUS=half way\n", want: "STATUS=half way" },
  { text: "MAINPID=1\nFDSTORE=1\nBARRIER=1\nX_OWN=1", want: "" },
  { text: `STATUS=${"x".repeat(600)}\nSTOPPING=1`, want: "STOPPING=1" },
  { text: "STATUS=a\u001b[2J", want: "" },
])("hostNotification(): $text", ({ text, want }) => {
  expect(hostNotification(text, 7)).toBe(want);
});
