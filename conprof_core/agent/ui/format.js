// Numbers for people. Three significant digits; the unit follows the size.

const TIME = [[3600e9, "h"], [60e9, "min"], [1e9, "s"], [1e6, "ms"], [1e3, "µs"], [1, "ns"]];
const BYTES = [[2 ** 40, "TiB"], [2 ** 30, "GiB"], [2 ** 20, "MiB"], [2 ** 10, "KiB"], [1, "B"]];
const COUNT = [[1e9, "G"], [1e6, "M"], [1e4, "k", 1e3], [1, ""]];

function digits(x) {
  const size = Math.abs(x);
  if (size >= 100 || x === 0) return x.toFixed(0);
  return x.toFixed(size >= 10 ? 1 : 2);
}

function scale(value, table) {
  const size = Math.abs(value);
  if (table === COUNT && size < 1e4 && Number.isInteger(value)) return [String(value), ""];
  for (const [from, unit, by] of table) if (size >= from) return [digits(value / (by ?? from)), unit];
  const last = table[table.length - 1];
  return value === 0 ? ["0", ""] : [digits(value / last[0]), last[1]];
}

// Units as pprof knows them, in nanoseconds or bytes.
const SCALED = {
  microseconds: [1e3, TIME], milliseconds: [1e6, TIME], seconds: [1e9, TIME],
  kilobytes: [1024, BYTES], megabytes: [1024 ** 2, BYTES], gigabytes: [1024 ** 3, BYTES],
  nanoseconds: [1, TIME], bytes: [1, BYTES], count: [1, COUNT], "": [1, COUNT],
};

/** A value of a profile type: "1.24 s", "3.10 MiB", "12.3 k"; a unit not known is named. */
export function amount(value, unit) {
  if (value === null || value === undefined || Number.isNaN(value)) return "–";
  const [factor, table] = SCALED[unit] ?? [1, COUNT];
  const [number, suffix] = scale(value * factor, table);
  const text = suffix ? `${number}\u2009${suffix}` : number;
  return unit in SCALED ? text : `${text} ${unit}`;
}

export const isTime = (unit) => SCALED[unit]?.[1] === TIME;

/** A value per second; a state is what it is. */
export function rate(value, unit, instant = false) {
  if (value === null || value === undefined) return "–";
  return instant ? amount(value, unit) : `${amount(value, unit)}/s`;
}

export function percent(share) {
  if (!Number.isFinite(share)) return "–";
  const value = share * 100;
  if (value !== 0 && Math.abs(value) < 0.1) return value > 0 ? "<0.1\u2009%" : ">−0.1\u2009%";
  return `${value.toFixed(Math.abs(value) >= 99.95 ? 0 : 1)}\u2009%`;
}

/** A signed change, with a real minus sign. */
export function signed(text, value) {
  return (value > 0 ? "+" : value < 0 ? "−" : "±") + text.replace(/^[-−]/, "");
}

const two = (n) => String(n).padStart(2, "0");

export function clock(ms, withSeconds = true) {
  const t = new Date(ms);
  return `${two(t.getHours())}:${two(t.getMinutes())}${withSeconds ? `:${two(t.getSeconds())}` : ""}`;
}

export function moment(ms) {
  const t = new Date(ms);
  const day = t.toLocaleDateString(undefined, { day: "numeric", month: "short" });
  return `${day}, ${clock(ms)}`;
}

export function range(fromMs, toMs) {
  const sameDay = new Date(fromMs).toDateString() === new Date(toMs).toDateString();
  return sameDay ? `${moment(fromMs)} – ${clock(toMs)}` : `${moment(fromMs)} – ${moment(toMs)}`;
}

export function duration(seconds) {
  if (seconds < 90) return `${Math.round(seconds)}\u2009s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)}\u2009min`;
  if (seconds < 129600) return `${(seconds / 3600).toFixed(1).replace(/\.0$/, "")}\u2009h`;
  return `${(seconds / 86400).toFixed(1).replace(/\.0$/, "")}\u2009days`;
}

/** Names of types as people say them. */
const TYPES = {
  cpu: "CPU time", cpu_samples: "CPU samples", wall: "Wall time", wall_samples: "Wall samples",
  alloc_space: "Allocated memory", alloc_objects: "Allocations", heap_space: "Live heap",
  heap_objects: "Live objects", lock_wait: "Lock wait", lock_hold: "Lock hold",
  loop_blocked: "Event loop blocked", loop_blocks: "Event loop blocks",
  gc_pause: "GC pauses", gc_pauses: "Collections",
  lock_acquires: "Lock acquisitions", lock_releases: "Lock releases", exceptions: "Exceptions",
  goroutines: "Goroutines", leaked_goroutines: "Leaked goroutines", tasks: "Tasks", gil_wait: "GIL wait",
  mutex_delay: "Mutex wait", mutex_contentions: "Mutex contentions",
  block_delay: "Blocking wait", block_contentions: "Blocking events",
};
const spoken = (name) => name.charAt(0).toUpperCase() + name.slice(1).replaceAll("_", " ");
/** The name of a type; the wire of Go's probe calls what Python has goroutines as well. */
export const typeName = (name, language = "") =>
  (name === "goroutines" && language === "python" ? "Threads and tasks" : TYPES[name] ?? spoken(name));

const KEYS = {
  "http.route": "Route", "http.request.method": "Method", "http.response.status_class": "Status",
  thread: "Thread", task: "Task", "task.state": "State", "heap.age": "Age", host: "Host",
  process_id: "Process", lock: "Lock", "exception.type": "Exception",
};
export const keyName = (key) => KEYS[key] ?? key;

/** The file of a function, shortened from the left to what tells it apart. */
export function place(file, line) {
  if (!file) return "";
  const pieces = file.split("/");
  const short = pieces.length > 4 ? `…/${pieces.slice(-3).join("/")}` : file;
  return line ? `${short}:${line}` : short;
}
