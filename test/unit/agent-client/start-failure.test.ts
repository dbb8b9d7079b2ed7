import { expect, test } from "vitest";
import { RuntimeError } from "../../../src/base/errors.ts";
import { startFailure } from "../../../src/agent-client/start-failure.ts";

test.for([
  {
    said: "executable file `/x` not found in $PATH: No such file or directory",
    want: 'exec: "/x": executable file not found in $PATH',
  },
  { said: "open executable: Permission denied", want: "exec: permission denied" },
  { said: "open executable: Operation not permitted", want: "exec: permission denied" },
  {
    said: 'Cannot start exec "e1" of container "c1": chdir `/nowhere`: No such file or directory',
    want: 'unable to start container process: chdir to cwd ("/nowhere") set in config.json failed: no such file or directory',
  },
  { said: "something else", want: "something else" },
])("startFailure(): $said", ({ said, want }) => {
  const error = startFailure(new RuntimeError("internal", said));
  expect((error as Error).message).toContain(want);
});
