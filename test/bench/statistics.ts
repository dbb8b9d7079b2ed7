/** What a row says of its samples. */
export interface Summary {
  readonly n: number;
  readonly min: number;
  readonly median: number;
  readonly max: number;
  /** The middle half of the samples: (third quartile - first quartile) / median. */
  readonly spread: number;
}

/** @throws RangeError  there is no sample, or one that is not a finite number */
export function summarize(samples: readonly number[]): Summary {
  if (samples.length === 0 || !samples.every(Number.isFinite)) {
    throw new RangeError(`Cannot summarize [${samples.join(", ")}]: expected one or more finite numbers`);
  }
  const sorted = samples.toSorted((left, right) => left - right);
  const median = quantile(sorted, 0.5);
  const width = quantile(sorted, 0.75) - quantile(sorted, 0.25);
  return {
    n: sorted.length,
    min: quantile(sorted, 0),
    median,
    max: quantile(sorted, 1),
    spread: median === 0 ? 0 : width / Math.abs(median),
  };
}

export function medianOf(samples: readonly number[]): number {
  return summarize(samples).median;
}

/** The value that `fraction` of the samples, which are not empty, do not exceed. */
export function quantileOf(samples: readonly number[], fraction: number): number {
  return quantile(
    samples.toSorted((left, right) => left - right),
    fraction,
  );
}

/** By linear interpolation between the neighbours. `sorted` is not empty. */
function quantile(sorted: readonly number[], fraction: number): number {
  const position = (sorted.length - 1) * fraction;
  const low = sorted[Math.floor(position)] ?? Number.NaN;
  const high = sorted[Math.ceil(position)] ?? Number.NaN;
  return low + (high - low) * (position - Math.floor(position));
}
