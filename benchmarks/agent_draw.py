"""How fast the viewer draws and zooms a flame graph of 100 000 nodes, in Chromium.

    python benchmarks/agent_draw.py [--nodes 100000] [--chromium /usr/bin/chromium]

The tree is made in the page; the figures are those of the viewer's own modules: reading the
answer's arrays and laying them out, one full paint, and frames a second during zooms.
"""

# ruff: noqa: E501 - the script inside
from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile

from playwright.sync_api import sync_playwright

ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
MEASURE = """async ([count, shape]) => {
  const { Tree } = await import("./tree.js");
  const { FlameGraph } = await import("./flamegraph.js");
  let seed = 7;
  const random = () => (seed = (seed * 16807) % 2147483647) / 2147483647;
  const n = { parent: [-1], function: [0], line: [0], self: [0], total: [0] };
  const depth = [0];
  while (n.parent.length < count) {
    let parent;
    if (shape === "broad") {
      // 1200 ways down, all equally wide: nothing is too small to be drawn.
      parent = n.parent.length <= 1200 ? 0 : n.parent.length - 1200;
    } else {
      const near = Math.floor(n.parent.length * (1 - random() * random() * 0.6));
      parent = Math.min(near, n.parent.length - 1);
      if (depth[parent] > 60) continue;
    }
    n.parent.push(parent); depth.push(depth[parent] + 1);
    n.function.push(1 + Math.floor(random() * 3000)); n.line.push(1);
    const self = shape === "broad" ? 1 : Math.ceil(1 / (random() + 0.01)); n.self.push(self); n.total.push(self);
  }
  for (let i = count - 1; i > 0; i -= 1) n.total[n.parent[i]] += n.total[i];
  const functions = [["total", "", "runtime", "runtime"]];
  for (let i = 1; i <= 3000; i += 1) functions.push([`function_${i}`, `/srv/m${i % 90}.py`, `m${i % 90}`, i % 3 ? "own" : "library"]);
  const graph = new FlameGraph({ label: "benchmark" });
  document.querySelector("main").replaceChildren(graph.element);
  let at = performance.now();
  const tree = Tree.fromAnswer({ functions, nodes: n }).weigh();
  const layout = performance.now() - at;
  graph.setTree(tree);
  graph.setColours("module");
  await new Promise(requestAnimationFrame);
  const paints = [];
  for (let i = 0; i < 9; i += 1) { at = performance.now(); graph.paint(); graph.canvas.getContext("2d").getImageData(0, 0, 1, 1); paints.push(performance.now() - at); }
  paints.sort((a, b) => a - b);
  let frames = 0; const paint = graph.paint; graph.paint = function () { frames += 1; return paint.call(this); };
  at = performance.now();
  for (let round = 0; round < 6; round += 1) {
    let node = 0;
    for (let k = 0; k < 1 + (round % 3); k += 1) node = [...tree.childrenOf(node)].sort((a, b) => tree.weight[b] - tree.weight[a])[0] ?? node;
    graph.zoomTo(round % 2 ? 0 : node);
    await new Promise((done) => setTimeout(done, 180));
  }
  return { nodes: tree.length, depth: tree.maxDepth, layout, paint: paints[4], drawn: graph.drawn, fps: frames / ((performance.now() - at) / 1000) };
}"""


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nodes", type=int, default=100_000)
    parser.add_argument("--chromium", default=shutil.which("chromium"))
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory, sync_playwright() as driver:
        agent = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "conprof_core.cli.main",
                "agent",
                "--listen=127.0.0.1:0",
                f"--data={directory}",
            ],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        try:
            assert agent.stdout is not None
            found = re.search(r"http://\S+", agent.stdout.readline())
            assert found is not None
            browser = driver.chromium.launch(executable_path=arguments.chromium, args=ARGUMENTS)
            page = browser.new_page(viewport={"width": 1440, "height": 900}, bypass_csp=True)
            page.goto(found[0])
            page.wait_for_selector(".empty")
            figures = {
                shape: page.evaluate(MEASURE, [arguments.nodes, shape])
                for shape in ("ragged", "broad")
            }
            browser.close()
        finally:
            agent.terminate()
            agent.wait(20)
    for shape, found in figures.items():
        print(
            f"{shape}: {found['nodes']} nodes, {found['depth']} deep, {found['drawn']} drawn; "
            f"layout {found['layout']:.0f} ms, paint {found['paint']:.1f} ms (median of 9), "
            f"zoom {found['fps']:.0f} frames/s"
        )


if __name__ == "__main__":
    main()
