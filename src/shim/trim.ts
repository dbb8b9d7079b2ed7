/** A sandbox has come up by then, as a rule. A collection in the middle of it takes some milliseconds and harms nothing. */
const settledMs = 10_000;
/** Of the latest start, where there are several. */
let timer: NodeJS.Timeout | undefined;

/**
 * Gives back, once it is over, what a start has left: garbage, and the code of what is not going to be run again (it is compiled anew if it
 * is). An idle daemon would keep it for ever, because nothing makes it collect. Needs Node's `--expose-gc`, else does nothing.
 */
export function trimOnceSettled(): void {
  clearTimeout(timer);
  timer = setTimeout(() => {
    globalThis.gc?.({ type: "major", execution: "sync", flavor: "last-resort" });
  }, settledMs).unref();
}
