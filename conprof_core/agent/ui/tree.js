// A flame tree in typed arrays, and the trees that are made of it: inverted, callers, callees.
// A parent always has a lower number than its children; node 0 is the root.

export class Tree {
  /** functions: [name, file, module, kind] each; the other arrays are parallel, one entry a node. */
  constructor(functions, parent, func, line, self, total, base = null) {
    this.functions = functions;
    this.parent = Int32Array.from(parent);
    this.func = Int32Array.from(func);
    this.line = Int32Array.from(line);
    this.self = Float64Array.from(self);
    this.total = Float64Array.from(total);
    this.baseSelf = base ? Float64Array.from(base.self) : null;
    this.baseTotal = base ? Float64Array.from(base.total) : null;
    this.length = this.parent.length;
  }

  static fromAnswer(answer) {
    const n = answer.nodes;
    const base = n.base_total ? { self: n.base_self, total: n.base_total } : null;
    return new Tree(answer.functions, n.parent, n.function, n.line, n.self, n.total, base);
  }

  /** Width of a node: its total, or both totals brought to one scale. */
  weigh(scale = 1, baseScale = 0) {
    this.weight = new Float64Array(this.length);
    for (let i = 0; i < this.length; i += 1) {
      this.weight[i] = this.total[i] * scale + (this.baseTotal ? this.baseTotal[i] * baseScale : 0);
    }
    this.layOut();
    return this;
  }

  /** Positions from 0 to 1 and depths; children of a node by name, so that two graphs line up. */
  layOut() {
    const { length, parent, weight, func, functions } = this;
    const first = new Int32Array(length + 1);
    for (let i = 1; i < length; i += 1) first[parent[i] + 1] += 1;
    for (let i = 0; i < length; i += 1) first[i + 1] += first[i];
    const place = first.slice();
    const children = new Int32Array(Math.max(0, length - 1));
    for (let i = 1; i < length; i += 1) children[place[parent[i]]++] = i;
    const order = functions.map((f, i) => i).sort((a, b) => {
      const x = functions[a];
      const y = functions[b];
      return x[0] < y[0] ? -1 : x[0] > y[0] ? 1 : x[1] < y[1] ? -1 : x[1] > y[1] ? 1 : 0;
    });
    const rank = new Int32Array(functions.length);
    order.forEach((f, i) => { rank[f] = i; });
    this.first = first;
    this.children = children;
    this.x = new Float64Array(length);
    this.depth = new Int32Array(length);
    this.maxDepth = 0;
    for (let node = 0; node < length; node += 1) {
      const from = first[node];
      const to = first[node + 1];
      if (to - from > 16) children.subarray(from, to).sort((a, b) => rank[func[a]] - rank[func[b]]);
      else {
        // Most nodes have few children: an insertion sort spares a view and a comparator for each.
        for (let k = from + 1; k < to; k += 1) {
          const child = children[k];
          const own = rank[func[child]];
          let at = k;
          for (; at > from && rank[func[children[at - 1]]] > own; at -= 1) children[at] = children[at - 1];
          children[at] = child;
        }
      }
      let at = this.x[node];
      for (let k = from; k < to; k += 1) {
        const child = children[k];
        this.x[child] = at;
        at += weight[child];
        this.depth[child] = this.depth[node] + 1;
        if (this.depth[child] > this.maxDepth) this.maxDepth = this.depth[child];
      }
    }
  }

  childrenOf(node) {
    return this.children.subarray(this.first[node], this.first[node + 1]);
  }

  name(node) {
    return node === 0 ? this.rootName ?? "everything" : this.functions[this.func[node]][0];
  }

  /** Function numbers from the root to a node. */
  path(node) {
    const found = [];
    for (let at = node; at > 0; at = this.parent[at]) found.push(this.func[at]);
    return found.reverse();
  }

  /** The node that a path of [name, file] keys leads to; the deepest that exists. */
  find(keys) {
    let node = 0;
    for (const key of keys) {
      const next = [...this.childrenOf(node)].find((c) => this.key(c) === key);
      if (next === undefined) break;
      node = next;
    }
    return node;
  }

  key(node) {
    const f = this.functions[this.func[node]];
    return `${f[0]}\u0001${f[1]}`;
  }

  /** Leaves at the top level, their callers below: where self time is spent, and from where. */
  inverted() {
    const builder = new Builder(this);
    for (let node = 1; node < this.length; node += 1) {
      const base = this.baseSelf ? this.baseSelf[node] : 0;
      if (this.self[node] || base) builder.addUpwards(node, this.self[node], base);
    }
    return builder.done();
  }

  /** Callers of a function, itself at the top level. */
  callersOf(f) {
    const builder = new Builder(this);
    for (const node of this.outermost(f)) {
      builder.addUpwards(node, this.total[node], this.baseTotal ? this.baseTotal[node] : 0);
    }
    return builder.done();
  }

  /** What a function calls, itself at the top level. */
  calleesOf(f) {
    const builder = new Builder(this);
    for (const node of this.outermost(f)) builder.addSubtree(node);
    return builder.done();
  }

  /** Nodes of a function that no other node of it encloses: recursion counts once. */
  outermost(f) {
    const inside = new Uint8Array(this.length);
    const found = [];
    for (let node = 1; node < this.length; node += 1) {
      if (inside[this.parent[node]]) inside[node] = 1;
      else if (this.func[node] === f) {
        inside[node] = 1;
        found.push(node);
      }
    }
    return found;
  }

  /** Rows of the top table: self and total of each function, recursion counted once. */
  top() {
    const n = this.functions.length;
    const rows = this.functions.map((f, i) => ({
      f: i, function: f[0], file: f[1], module: f[2], kind: f[3], line: 0,
      self: 0, total: 0, base_self: 0, base_total: 0, heaviest: -1,
    }));
    const open = new Int32Array(n);
    const stack = this.length > 1 ? [...this.childrenOf(0)] : [];
    while (stack.length) {
      const node = stack.pop();
      if (node < 0) {
        open[this.func[~node]] -= 1;
        continue;
      }
      const row = rows[this.func[node]];
      row.self += this.self[node];
      if (this.baseSelf) row.base_self += this.baseSelf[node];
      if (!open[row.f]) {
        row.total += this.total[node];
        if (this.baseTotal) row.base_total += this.baseTotal[node];
      }
      if (this.total[node] > row.heaviest) {
        row.heaviest = this.total[node];
        row.line = this.line[node];
      }
      open[row.f] += 1;
      stack.push(~node);
      for (const child of this.childrenOf(node)) stack.push(child);
    }
    return rows.filter((row) => row.heaviest >= 0);
  }
}

class Builder {
  constructor(source) {
    this.source = source;
    this.index = new Map();
    this.parent = [-1];
    this.func = [source.func[0]];
    this.line = [0];
    this.self = [0];
    this.total = [0];
    this.baseSelf = [0];
    this.baseTotal = [0];
  }

  child(parent, func, line) {
    const key = parent * this.source.functions.length + func;
    let node = this.index.get(key);
    if (node === undefined) {
      node = this.parent.length;
      this.index.set(key, node);
      this.parent.push(parent);
      this.func.push(func);
      this.line.push(line);
      this.self.push(0);
      this.total.push(0);
      this.baseSelf.push(0);
      this.baseTotal.push(0);
    }
    return node;
  }

  addUpwards(node, value, base) {
    const { parent, func, line } = this.source;
    let place = 0;
    this.total[0] += value;
    this.baseTotal[0] += base;
    for (let at = node; at > 0; at = parent[at]) {
      place = this.child(place, func[at], line[at]);
      this.total[place] += value;
      this.baseTotal[place] += base;
    }
    this.self[place] += value;
    this.baseSelf[place] += base;
  }

  addSubtree(top) {
    const s = this.source;
    const stack = [[top, 0]];
    this.total[0] += s.total[top];
    if (s.baseTotal) this.baseTotal[0] += s.baseTotal[top];
    while (stack.length) {
      const [node, under] = stack.pop();
      const place = this.child(under, s.func[node], s.line[node]);
      this.total[place] += s.total[node];
      this.self[place] += s.self[node];
      if (s.baseTotal) {
        this.baseTotal[place] += s.baseTotal[node];
        this.baseSelf[place] += s.baseSelf[node];
      }
      for (const child of s.childrenOf(node)) stack.push([child, place]);
    }
  }

  done() {
    const base = this.source.baseTotal ? { self: this.baseSelf, total: this.baseTotal } : null;
    return new Tree(this.source.functions, this.parent, this.func, this.line, this.self, this.total, base);
  }
}
