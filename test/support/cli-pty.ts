import { readdirSync, readFileSync, readlinkSync } from "node:fs";
import { type Running, runOk, start } from "./cli-run.ts";
import { patient } from "./patience.ts";

export interface PtyOptions {
  readonly env?: Readonly<Record<string, string>>;
  readonly columns?: number;
  readonly rows?: number;
  readonly timeoutMs?: number;
  /** Shell text that runs before the command line, on the same terminal. */
  readonly before?: string;
}

/** A shell command line on a terminal of its own. */
export interface Pty extends AsyncDisposable {
  readonly running: Running;
  /** Everything that the terminal showed so far. */
  readonly output: string;
  /** Resolves when the output matches. Fails when the program ends or the time is over without it. */
  shows(pattern: RegExp, timeoutMs?: number): Promise<RegExpExecArray>;
  type(text: string): void;
  /** Changes the window's size; the kernel tells the foreground processes. */
  resize(columns: number, rows: number): Promise<void>;
  /** Exit code of the command line. */
  readonly exitCode: Promise<number | null>;
}

/**
 * Runs `commandLine` (for sh) on a new pseudo terminal by means of script(1), which every Debian has.
 *
 * The size is set inside before the command runs, and later from outside through the terminal's device.
 */
export function startOnPty(commandLine: string, options: PtyOptions = {}): Pty {
  const size = `stty columns ${options.columns ?? 80} rows ${options.rows ?? 24}; ${options.before ?? ":"}`;
  const running = start(
    ["script", "--quiet", "--flush", "--return", "--command", `${size}; ${commandLine}`, "/dev/null"],
    {
      env: { TERM: "xterm", SHELL: "/bin/sh", ...options.env },
      timeoutMs: options.timeoutMs ?? 120_000,
    },
  );
  let output = "";
  let isOver = false;
  const listeners = new Set<() => void>();
  const notify = () => listeners.forEach((listener) => listener());
  running.stdout.setEncoding("utf8");
  running.stdout.on("data", (chunk: string) => {
    output += chunk;
    notify();
  });
  const exitCode = running.ended.then((end) => {
    isOver = true;
    notify();
    return end.exitCode;
  });
  exitCode.catch(() => {});

  const shows = (pattern: RegExp, timeoutMs = 90_000) =>
    new Promise<RegExpExecArray>((resolve, reject) => {
      const finish = (act: () => void) => {
        clearTimeout(timer);
        listeners.delete(check);
        act();
      };
      const fail = (why: string) =>
        finish(() =>
          reject(
            new Error(`The terminal never showed ${pattern}: ${why}; it shows ${JSON.stringify(output)}`),
          ),
        );
      const check = () => {
        const match = pattern.exec(output);
        if (match !== null) finish(() => resolve(match));
        else if (isOver) fail("the program ended");
      };
      const timer = setTimeout(() => fail(`not within ${timeoutMs} ms`), patient(timeoutMs));
      listeners.add(check);
      check();
    });

  return {
    running,
    get output() {
      return output;
    },
    shows,
    exitCode,
    type: (input) => void running.stdin.write(input),
    resize: async (columns, rows) => {
      await runOk(["stty", "-F", terminalOf(running.pid), "columns", String(columns), "rows", String(rows)]);
    },
    [Symbol.asyncDispose]: () => running[Symbol.asyncDispose](),
  };
}

/**
 * A shell loop that ends when the terminal has the size ("rows columns"). A client sets the size after the start, so it
 * is not there at once; a size that never comes ends in the time limit of the test.
 */
export function awaitSize(size: string): string {
  return `until [ "$(stty size 2>/dev/null)" = "${size}" ]; do sleep 0.1; done`;
}

/** The terminal that a child of script(1) has as its stdin. */
function terminalOf(scriptPid: number): string {
  for (const name of readdirSync("/proc")) {
    if (!/^\d+$/.test(name)) continue;
    try {
      const stat = readFileSync(`/proc/${name}/stat`, "latin1");
      const parent = Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]);
      if (parent !== scriptPid) continue;
      const terminal = readlinkSync(`/proc/${name}/fd/0`);
      if (terminal.startsWith("/dev/pts/")) return terminal;
    } catch {
      // The process ended while we looked.
    }
  }
  throw new Error(`Cannot find the terminal of script(1), pid ${scriptPid}`);
}
