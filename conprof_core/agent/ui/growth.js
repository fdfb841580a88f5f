// "What leaks?": the end of a range against its beginning, for what is a state, as live heap is.

/**
 * The ends of a range that windows cover, as a comparison: {from, to, base}; null without windows.
 *
 * A tenth each, but long enough for two windows, so that none is empty; and never more than a third.
 */
export function growth(series, [from, to]) {
  if (!series?.covered) return null;
  const start = Math.max(from, series.covered[0]);
  const end = Math.min(to, series.covered[1]);
  if (end <= start) return null;
  const length = end - start;
  const part = Math.min(length / 3, Math.max(length / 10, 2 * (series.window_ms ?? 0)));
  const round = Math.round;
  return {
    from: round(end - part), to: round(end), base: { from: round(start), to: round(start + part) },
  };
}
