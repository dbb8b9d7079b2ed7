/**
 * A code interpreter that keeps its state from one piece of code to the next: a shell stays open in the sandbox, and each piece
 * is followed by a marker that says where its output ends.
 *
 *   node examples/interpreter-session.ts IMAGE
 */
import { randomUUID } from "node:crypto";
import { createInterface } from "node:readline";
import { Sandbox } from "caisson";

const [image = "docker.io/library/busybox"] = process.argv.slice(2);

await using sandbox = await Sandbox.create({ image, memoryMiB: 256 });
const shell = await sandbox.spawn("sh");
const lines = createInterface({ input: shell.stdout })[Symbol.asyncIterator]();

/** Runs a piece of code in the session and returns what it has printed. */
async function evaluate(code: string): Promise<string> {
  const marker = randomUUID();
  shell.stdin.write(`${code}\necho\necho ${marker}\n`);
  const output: string[] = [];
  for (;;) {
    const { value, done } = await lines.next();
    if (done) throw new Error("the session has ended");
    if (value === marker) return output.join("\n").trimEnd();
    output.push(value);
  }
}

await evaluate("counter=20; double() { counter=$((counter * 2)); }");
await evaluate("double; cd /tmp; echo state >file");
console.log(await evaluate('echo "$counter $(pwd) $(cat file)"'));

shell.stdin.end();
const { exitCode } = await shell.wait();
console.log(`the session ended with exit code ${exitCode}`);
