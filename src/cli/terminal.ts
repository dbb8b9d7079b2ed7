import { RuntimeError } from "../base/errors.ts";

export interface WindowSize {
  readonly columns: number;
  readonly rows: number;
}

/** @throws invalid_argument  stdin is to be the container's terminal and is none */
export function checkTerminal(options: { interactive: boolean; terminal: boolean }): void {
  if (options.interactive && options.terminal && !process.stdin.isTTY) {
    throw new RuntimeError("invalid_argument", "Cannot use -t with -i: the input device is not a TTY");
  }
}

/** Switches the terminal at stdin to raw until disposed, and at the latest when the process exits for any reason. */
export function enterRawMode(): Disposable {
  if (!process.stdin.isTTY) return { [Symbol.dispose]() {} };
  const restore = () => {
    process.stdin.setRawMode(false);
  };
  process.once("exit", restore);
  process.stdin.setRawMode(true);
  return {
    [Symbol.dispose]() {
      process.off("exit", restore);
      restore();
    },
  };
}

/** Tells the size of the user's window now and at each change, until disposed. Without a window: never. */
export function followWindowSize(tell: (size: WindowSize) => void): Disposable {
  const stream = [process.stdout, process.stderr].find((candidate) => candidate.isTTY);
  if (stream === undefined) return { [Symbol.dispose]() {} };
  const onResize = () => tell({ columns: stream.columns, rows: stream.rows });
  stream.on("resize", onResize);
  onResize();
  return {
    [Symbol.dispose]() {
      stream.off("resize", onResize);
    },
  };
}
