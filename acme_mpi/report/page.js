"use strict";
// Charts over time: hover tells the values, a drag zooms into a part, a double click shows all.
const N_BINS = 480, LEFT = 60, INNER = 890;
const STEPS_S = [.001, .002, .005, .01, .02, .05, .1, .2, .5, 1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900,
  1800, 3600, 7200, 14400, 21600, 43200, 86400, 172800, 604800];
const SPECIAL = {f: "a task failed", w: "writing results"};
const tip = document.getElementById("tip");
const zooms = {};  // by article: the bins that are seen

function time(s) {
  if (s === 0) return "0";
  if (s < 1) return +(s * 1000).toPrecision(3) + " ms";
  if (s < 60) return +s.toPrecision(3) + " s";
  const [unit, large, small] = s < 3600 ? [60, "min", "s"] : s < 86400 ? [3600, "h", "min"] : [86400, "d", "h"];
  const rest = Math.floor(s % unit / (unit === 86400 ? 3600 : unit / 60));
  return `${Math.floor(s / unit)} ${large}` + (rest ? ` ${String(rest).padStart(2, "0")} ${small}` : "");
}

const zoomOf = (chart) => zooms[chart.closest("article").id] || [0, N_BINS];

// The bin under the pointer, with its fraction; outside of the plot the nearest one.
function binAt(chart, event) {
  const box = chart.querySelector(".plot").getBoundingClientRect();
  const part = Math.min(1, Math.max(0, (event.clientX - box.left) / box.width));
  const [from, to] = zoomOf(chart);
  return Math.min(N_BINS - 1e-6, from + part * (to - from));
}

function told(chart, event) {
  const bin = Math.floor(binAt(chart, event)), lines = [time((bin + .5) / N_BINS * chart.dataset.span)];
  if (chart.dataset.cells) {
    const box = chart.querySelector(".plot").getBoundingClientRect();
    const cells = chart.dataset.cells.split("|"), labels = chart.dataset.labels.split("|");
    const row = Math.floor((event.clientY - box.top) / box.height * cells.length);
    if (!(row in cells)) return "";
    const cell = cells[row][bin];
    lines.push(labels[row], SPECIAL[cell] || `busy ${Math.round(cell / 9 * 100)} %`);
  }
  for (let k = 0; chart.dataset[k]; k++) {
    const [name, values] = chart.dataset[k].split("|");
    lines.push(`${name}: ${values.split(",")[bin]}`);
  }
  return lines.join("\n");
}

function show(chart) {
  const [from, to] = zoomOf(chart), span = chart.dataset.span / N_BINS;
  chart.querySelector(".plot").setAttribute("viewBox", `${from} 0 ${to - from} 100`);
  const ticks = chart.querySelector(".ticks"), y = chart.viewBox.baseVal.height - 7;
  const step = STEPS_S.find((each) => (to - from) * span / each <= 8) || (to - from) * span;
  ticks.replaceChildren();
  for (let k = Math.ceil(from * span / step - 1e-9); k * step <= to * span * (1 + 1e-9); k++) {
    const text = document.createElementNS("http://www.w3.org/2000/svg", "text");
    text.setAttribute("x", LEFT + INNER * (k * step / span - from) / (to - from));
    text.setAttribute("y", y);
    text.setAttribute("text-anchor", (k * step / span - from) / (to - from) > .96 ? "end" : "middle");
    text.textContent = time(+(k * step).toPrecision(6));
    ticks.append(text);
  }
}

function zoom(chart, bins) {
  const article = chart.closest("article");
  zooms[article.id] = bins;
  article.querySelectorAll(".chart.time").forEach(show);
}

const chartOf = (event) => event.target.closest && event.target.closest(".chart.time");
let drag = null;  // {chart, from, mark}

document.addEventListener("pointerdown", (event) => {
  const chart = chartOf(event);
  if (!chart || event.button !== 0) return;
  const mark = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  mark.setAttribute("class", "select");
  mark.setAttribute("y", 0);
  mark.setAttribute("height", 100);
  chart.querySelector(".plot").append(mark);
  drag = { chart, mark, from: binAt(chart, event) };
});
document.addEventListener("pointermove", (event) => {
  const chart = drag ? drag.chart : chartOf(event);
  const text = chart ? told(chart, event) : "";
  tip.hidden = !text;
  tip.textContent = text;
  tip.style.left = Math.min(event.clientX + 12, innerWidth - tip.offsetWidth - 4) + "px";
  tip.style.top = event.clientY + 14 + "px";
  if (!drag) return;
  event.preventDefault();
  const to = binAt(drag.chart, event);
  drag.mark.setAttribute("x", Math.min(drag.from, to));
  drag.mark.setAttribute("width", Math.abs(to - drag.from));
});
document.addEventListener("pointerup", (event) => {
  if (!drag) return;
  const { chart, from, mark } = drag, to = binAt(chart, event);
  mark.remove();
  drag = null;
  if (Math.abs(to - from) > 1) zoom(chart, [Math.min(from, to), Math.max(from, to)]);
});
document.addEventListener("dblclick", (event) => {
  const chart = chartOf(event);
  if (chart) zoom(chart, [0, N_BINS]);
});
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((each) => { each.open = true; }));

// A live page asks for what is new, and leaves open what was open.
const main = document.querySelector("main");
async function look(after) {
  let next = after, pause_ms = 2000;
  try {
    const answer = await fetch(`main?after=${after}`);
    if (answer.status === 200) {
      const open = new Set([...main.querySelectorAll("details[open]")].map((each) => each.id));
      main.innerHTML = await answer.text();
      main.querySelectorAll("details").forEach((each) => { each.open = open.has(each.id); });
      main.querySelectorAll(".chart.time").forEach((each) => { if (!drag) show(each); });
      drag = null;
      next = answer.headers.get("X-Version");
    }
    main.classList.toggle("lost", answer.status >= 400);
    if (answer.headers.get("X-Is-Over") === "1") pause_ms = 10000;  // it may be resumed
  } catch (error) { main.classList.add("lost"); }
  setTimeout(look, pause_ms, next);
}
if (main.dataset.version) {
  history.replaceState(null, "", location.pathname);  // the token need not stay in the history
  look(main.dataset.version);
}
