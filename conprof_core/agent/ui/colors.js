// Colours of frames: warm for own code, cool and quiet for libraries, grey for the rest. The hue
// follows the module's name, so a module has the same colour in every view and on every day.

function hash(text) {
  let value = 2166136261;
  for (let i = 0; i < text.length; i += 1) value = Math.imul(value ^ text.charCodeAt(i), 16777619);
  return (value ^ (value >>> 15)) >>> 0;
}

export const isDark = () => {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
};

// From and width of the hues of a kind, and (saturation, lightness, ± of lightness) in light and dark.
const TONES = {
  own: { hues: [348, 66], light: [82, 74, 1], dark: [52, 51, 1] }, // rose through orange to amber
  library: { hues: [165, 75], light: [34, 82, 1], dark: [24, 39, 1] }, // green-blue to blue
  stdlib: { hues: [250, 40], light: [26, 87, 0.5], dark: [13, 38, 1] },
};

function tone(kind, at, wobble, dark) {
  const [saturation, lightness, spread] = TONES[kind][dark ? "dark" : "light"];
  return `hsl(${(TONES[kind].hues[0] + at) % 360} ${saturation}% ${lightness + wobble * spread}%)`;
}

/** Fill colours for functions ([name, file, module, kind]), by module or by own against foreign. */
export function frameColour([, , module, kind], mode, dark) {
  if (mode === "own") {
    if (kind === "own") return dark ? "hsl(28 62% 52%)" : "hsl(30 88% 68%)";
    if (kind === "library") return dark ? "hsl(214 14% 36%)" : "hsl(214 22% 86%)";
    return dark ? "hsl(220 6% 30%)" : "hsl(220 9% 91%)";
  }
  if (!(kind in TONES)) return dark ? "hsl(220 5% 34%)" : "hsl(220 8% 88%)";
  const n = hash(module);
  return tone(kind, n % TONES[kind].hues[1], ((n >>> 8) % 9) - 4, dark);
}

/** What a kind looks like in a legend. */
export function swatch(kind, mode, dark) {
  if (mode === "own") return frameColour(["", "", "", kind], mode, dark);
  const stops = [0, 0.5, 1].map((at) => tone(kind, at * TONES[kind].hues[1], 0, dark));
  return `linear-gradient(90deg, ${stops.join(", ")})`;
}

/** Colour of a change from -1 (gone) through 0 to 1 (new): blue for less, red for more. */
export function changeColour(change, dark) {
  const strength = Math.min(1, Math.abs(change)) ** 0.6;
  if (strength < 0.06) return dark ? "hsl(220 6% 34%)" : "hsl(220 9% 89%)";
  const hue = change > 0 ? 8 : 212;
  return dark
    ? `hsl(${hue} ${18 + 46 * strength}% ${34 + 15 * strength}%)`
    : `hsl(${hue} ${26 + 54 * strength}% ${89 - 21 * strength}%)`;
}

// Eight quiet categories for the timeline, told apart in lightness as well as in hue.
const LIGHT = ["#e0884f", "#5b8fb9", "#d9b44a", "#7a9e7e", "#b9779f", "#6f7fb3", "#c9675f", "#8aa6a3"];
const DARK = ["#d98a57", "#5f96c2", "#c9a64b", "#769d7c", "#b4789d", "#7d8cc2", "#c26a63", "#84a19e"];
export const category = (n, dark) => (n < 8 ? (dark ? DARK : LIGHT)[n] : dark ? "#5c5f66" : "#c4c6ca");
