import { formatGoal, formatNumber } from "./table.ts";
import type { Row } from "./rows.ts";

const width = 860;
const nameWidth = 300;
const valueWidth = 150;
const barHeight = 16;
const rowHeight = 26;
const headHeight = 44;
const footLineHeight = 16;
const footCharacters = 130;

const colors = {
  text: "#1f2328",
  quiet: "#656d76",
  bar: "#4c78a8",
  met: "#3a9a5c",
  missed: "#d1603d",
  spread: "#1f2328",
  floor: "#9a6700",
  paper: "#ffffff",
} as const;

/**
 * A group of rows as an SVG image: a bar for each median, a line from the least to the most, a mark at the floor; green and red
 * say whether a goal is met. `footer` are the lines below: the machine, the versions, the load.
 */
export function drawChart(rows: readonly Row[], footer: readonly string[]): string {
  const [first] = rows;
  if (first === undefined) throw new RangeError("Cannot draw a chart of no rows");
  const most = Math.max(...rows.flatMap(({ max, floor }) => [max, floor ?? 0]), Number.MIN_VALUE);
  const scale = (value: number) => (Math.max(0, value) / most) * (width - nameWidth - valueWidth - 20);
  const lines = footer.flatMap((words) => wrap(words, footCharacters));
  const height = headHeight + rows.length * rowHeight + 14 + lines.length * footLineHeight + 8;
  const title = `${first.group} (${first.unit})`;
  const bars = rows.map((row, index) => drawRow(row, headHeight + index * rowHeight, scale));
  const feet = lines.map((words, index) =>
    text(words, 12, headHeight + rows.length * rowHeight + 20 + index * footLineHeight, {
      size: 11,
      color: colors.quiet,
    }),
  );
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="system-ui, sans-serif" role="img" aria-label="${escapeXml(title)}">
<rect width="100%" height="100%" fill="${colors.paper}"/>
${[text(title, 12, 26, { size: 15, weight: "bold" }), ...bars, ...feet].join("\n")}
</svg>
`;
}

function drawRow(row: Row, top: number, scale: (value: number) => number): string {
  const middle = top + barHeight / 2;
  const left = nameWidth + 12;
  const color = row.met === null ? colors.bar : row.met ? colors.met : colors.missed;
  const goal = row.goal === null ? "" : `, goal ${formatGoal(row.goal)}`;
  const ratio = row.ratio === null ? "" : ` (${row.ratio.toFixed(2)} ×)`;
  const parts = [
    text(row.name.trim(), 12, middle + 4, { size: 12 }),
    `<rect x="${left}" y="${top}" width="${round(scale(row.median))}" height="${barHeight}" fill="${color}"/>`,
    line(left + scale(row.min), left + scale(row.max), middle, colors.spread),
    text(`${formatNumber(row.median)}${ratio}${goal}`, left + scale(row.max) + 8, middle + 4, { size: 11 }),
  ];
  if (row.floor !== null) {
    const x = round(left + scale(row.floor));
    parts.push(
      `<path d="M${x} ${top - 3}V${top + barHeight + 3}" stroke="${colors.floor}" stroke-width="2" stroke-dasharray="3 2"/>`,
    );
  }
  return parts.join("");
}

function line(from: number, to: number, y: number, color: string): string {
  return `<path d="M${round(from)} ${y}H${round(to)}" stroke="${color}" stroke-opacity="0.6"/>`;
}

interface TextStyle {
  readonly size: number;
  readonly color?: string;
  readonly weight?: "bold";
}

function text(value: string, x: number, y: number, { size, color = colors.text, weight }: TextStyle): string {
  const bold = weight === undefined ? "" : ` font-weight="${weight}"`;
  return `<text x="${round(x)}" y="${round(y)}" font-size="${size}" fill="${color}"${bold}>${escapeXml(value)}</text>`;
}

/** Lines of at most so many characters, cut between words. */
function wrap(words: string, characters: number): string[] {
  const lines: string[] = [];
  let line = "";
  for (const word of words.split(" ")) {
    if (line !== "" && line.length + word.length >= characters) {
      lines.push(line);
      line = "";
    }
    line += line === "" ? word : ` ${word}`;
  }
  return [...lines, line];
}

function escapeXml(value: string): string {
  return value
    .replaceAll("&", "&amp;")
    .replaceAll("<", "&lt;")
    .replaceAll(">", "&gt;")
    .replaceAll('"', "&quot;");
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}
