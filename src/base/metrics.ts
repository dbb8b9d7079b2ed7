/**
 * Counters in plain memory: a few numbers per series and nothing else, so that counting is cheap in a daemon that nobody
 * asks for its metrics. What turns them into text is loaded by whoever is asked.
 */
import { type Code, codeOf } from "./errors.ts";

/** What a metric is: its name, meaning and labels. */
export interface Definition<Label extends string = string> {
  readonly name: string;
  readonly type: "counter" | "gauge" | "histogram";
  readonly help: string;
  readonly labels: readonly Label[];
  /** Upper bounds of a histogram's buckets, ascending, without infinity. */
  readonly buckets: readonly number[];
}

/** The values of a metric's labels. */
export type Labels<Label extends string> = Readonly<Record<Label, string>>;

/** One line of the text form. */
interface Sample {
  /** The metric's name, with a histogram's suffix. */
  readonly name: string;
  readonly labels: Readonly<Record<string, string | number>>;
  readonly value: number;
}

/** A metric with its values of now. */
export interface Family {
  readonly definition: Definition;
  readonly samples: readonly Sample[];
}

/** Most label combinations of one metric; what comes later is counted with every label "other". */
const maxSeries = 128;

export function counter<const Label extends string = never>(
  name: `${string}_total`,
  help: string,
  labels: readonly Label[] = [],
): Definition<Label> {
  return { name, type: "counter", help, labels, buckets: [] };
}

export function gauge<const Label extends string = never>(
  name: string,
  help: string,
  labels: readonly Label[] = [],
): Definition<Label> {
  return { name, type: "gauge", help, labels, buckets: [] };
}

export function histogram<const Label extends string = never>(
  name: `${string}_${"seconds" | "bytes"}`,
  help: string,
  buckets: readonly number[],
  labels: readonly Label[] = [],
): Definition<Label> {
  return { name, type: "histogram", help, labels, buckets };
}

/** A metric whose values are known elsewhere and looked up when it is asked for. */
export function familyOf<Label extends string>(
  definition: Definition<Label>,
  values: readonly (readonly [Labels<Label>, number])[],
): Family {
  const { name } = definition;
  return { definition, samples: values.map(([labels, value]) => ({ name, labels, value })) };
}

/** Counts up. Without labels it begins at 0. */
export class Counter<Label extends string> {
  readonly #definition: Definition<Label>;
  readonly #series: Series<Label, { value: number }>;

  constructor(definition: Definition<Label>) {
    this.#definition = definition;
    this.#series = new Series(definition.labels, () => ({ value: 0 }));
    // So that a rate over it sees the first increase too. With labels nobody knows which come.
    if (definition.labels.length === 0) this.add({} as Labels<Label>, 0);
  }

  add(labels: Labels<Label>, amount = 1): void {
    this.#series.of(labels).value += amount;
  }

  family(): Family {
    return familyOf(this.#definition, valuesOf(this.#series));
  }
}

/** Keeps the last value; it has none before. */
export class Gauge<Label extends string> {
  readonly #definition: Definition<Label>;
  readonly #series: Series<Label, { value: number }>;

  constructor(definition: Definition<Label>) {
    this.#definition = definition;
    this.#series = new Series(definition.labels, () => ({ value: 0 }));
  }

  set(labels: Labels<Label>, value: number): void {
    this.#series.of(labels).value = value;
  }

  family(): Family {
    return familyOf(this.#definition, valuesOf(this.#series));
  }
}

function valuesOf<Label extends string>(series: Series<Label, { value: number }>) {
  return series.entries.map(([labels, { value }]) => [labels, value] as const);
}

interface Distribution {
  /** How many values fell into each bucket, and into none. */
  readonly counts: number[];
  sum: number;
}

/** Counts values by their size. */
export class Histogram<Label extends string> {
  readonly #definition: Definition<Label>;
  readonly #series: Series<Label, Distribution>;

  constructor(definition: Definition<Label>) {
    this.#definition = definition;
    const length = definition.buckets.length + 1;
    this.#series = new Series(definition.labels, () => ({ counts: Array<number>(length).fill(0), sum: 0 }));
  }

  observe(labels: Labels<Label>, value: number): void {
    const { buckets } = this.#definition;
    const distribution = this.#series.of(labels);
    const bucket = buckets.findIndex((bound) => value <= bound);
    const index = bucket === -1 ? buckets.length : bucket;
    distribution.counts[index] = (distribution.counts[index] ?? 0) + 1;
    distribution.sum += value;
  }

  family(): Family {
    const definition = this.#definition;
    return { definition, samples: this.#series.entries.flatMap((entry) => toSamples(definition, ...entry)) };
  }
}

/** The buckets of the text form are cumulative. */
function toSamples(
  { name, buckets }: Definition,
  labels: Labels<string>,
  { counts, sum }: Distribution,
): Sample[] {
  let total = 0;
  const cumulative = counts.map((count, index) => {
    total += count;
    const le = buckets[index] ?? "+Inf";
    return { name: `${name}_bucket`, labels: { ...labels, le }, value: total };
  });
  return [
    ...cumulative,
    { name: `${name}_sum`, labels, value: sum },
    { name: `${name}_count`, labels, value: total },
  ];
}

/** The values of one metric by their labels. */
class Series<Label extends string, Value> {
  readonly #labels: readonly Label[];
  readonly #create: () => Value;
  readonly #values = new Map<string, readonly [Labels<Label>, Value]>();

  constructor(labels: readonly Label[], create: () => Value) {
    this.#labels = labels;
    this.#create = create;
  }

  get entries(): (readonly [Labels<Label>, Value])[] {
    return [...this.#values.values()];
  }

  of(labels: Labels<Label>): Value {
    const key = this.#labels.map((label) => labels[label]).join("\0");
    const known = this.#values.get(key);
    if (known !== undefined) return known[1];
    return this.#values.size < maxSeries ? this.#add(key, labels) : this.#other();
  }

  #add(key: string, labels: Labels<Label>): Value {
    const value = this.#create();
    this.#values.set(key, [{ ...labels }, value]);
    return value;
  }

  #other(): Value {
    const key = this.#labels.map(() => "other").join("\0");
    // The names are those of the labels; Object.fromEntries forgets that.
    const labels = Object.fromEntries(this.#labels.map((label) => [label, "other"])) as Labels<Label>;
    return this.#values.get(key)?.[1] ?? this.#add(key, labels);
  }
}

/** Runs `work` and reports how long it took, and the kind of its failure. */
export async function timed<T>(
  work: () => Promise<T>,
  report: (seconds: number, error: Code | undefined) => void,
): Promise<T> {
  const startMs = performance.now();
  try {
    const result = await work();
    report((performance.now() - startMs) / 1000, undefined);
    return result;
  } catch (error) {
    report((performance.now() - startMs) / 1000, codeOf(error));
    throw error;
  }
}
