// What does a screen look like in a page? It draws the trait `scene`, and sends what is clicked.
//
// A frame changes what differs and nothing else, so that focus, selection, scroll and open parts survive 20 of them a
// second. What a scene says is text and stays text. Nothing runs while no frame comes: no loop, no polling.

const PATIENCE_MS = 3000; // a click that nobody took by then is complained about
const BREATH_MS = 1000; // between two announcements: a screen reader has to come to an end
const NOTHING = "–";
const GONE = "The kernel has gone: run the cell again.";
const SILENT = "The kernel has not answered for 3 s: it is busy with a cell, or gone. What was clicked waits for it.";
const SVG_TAGS = new Set(["svg", "g", "path", "rect", "text", "circle"]);
const GROUPS = ["guest", "machine", "notifiers", "threads"];

// -- small parts ------------------------------------------------------------------------------------------------------

const css = (names) => names.split(" ").map((name) => `labkit-${name}`).join(" ");

function make(tag, attributes = {}, ...children) {
  const svg = SVG_TAGS.has(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, name === "class" ? css(value) : value);
  node.append(...children);
  return node;
}

/** The text of a node that has no other content. The text node stays, and with it a selection. */
function put(node, value) {
  const text = String(value ?? NOTHING);
  if (!node.firstChild) node.append("");
  if (node.firstChild.data !== text) node.firstChild.data = text;
}

/** An attribute; null takes it away. */
function set(node, name, value) {
  if (value === null) node.removeAttribute(name);
  else if (node.getAttribute(name) !== String(value)) node.setAttribute(name, value);
}

const light = (node, name, on) => node.classList.toggle(css(name), Boolean(on));
const show = (node, on) => node.hidden === !on || (node.hidden = !on);

/** The children of `parent` are those of `items`: who was there by its key stays, and is told what is new of it. */
function keyed(parent, items, key, create) {
  const known = (parent.labkitKnown ??= new Map());
  const keys = items.map((item, index) => String(key(item, index)));
  const wanted = new Set(keys);
  for (const [id, { node }] of known) if (!wanted.has(id)) node.remove(), known.delete(id);
  let next = parent.firstElementChild;
  items.forEach((item, index) => {
    const entry = known.get(keys[index]) ?? create(item, index);
    known.set(keys[index], entry);
    entry.update?.(item, index); // before it is in the page: a new one comes whole
    if (entry.node === next) next = next.nextElementSibling;
    else parent.insertBefore(entry.node, next);
  });
}

/** A table of `columns` (heading, text of an item, class) and a function that fills it. The first names the row. */
function table(caption, columns, key, mark = () => {}) {
  const title = make("caption", {}, caption);
  const body = make("tbody");
  const heads = columns.map(([name, , look = "text"]) => make("th", { scope: "col", class: look }, name));
  const node = make("table", { class: "table" }, title, make("thead", {}, make("tr", {}, ...heads)), body);
  const create = () => {
    const cells = columns.map(([, of, look = "text"], at) => {
      const cell = make(at ? "td" : "th", { class: look, ...(at ? {} : { scope: "row" }) });
      return typeof of === "function" ? [cell, (item) => put(cell, of(item))] : [cell, of.make(cell)];
    });
    const row = make("tr", {}, ...cells.map(([cell]) => cell));
    return { node: row, update: (item) => (cells.forEach(([, fill]) => fill(item)), mark(row, item)) };
  };
  return { node, title, body, fill: (items) => keyed(body, items, key, create) };
}

/** What is wider than the cell is scrolled in its own place, by keyboard too. */
const scroller = (label, node) => make("div", { class: "scroll", role: "region", "aria-label": label, tabindex: 0 }, node);

/** A part of the screen, which a screen reader can go to by its name. */
const panel = (look, name, ...children) => make("section", { class: `panel ${look}`, "aria-label": name }, ...children);

/** A word with a shape, by kind: owners, states of a machine, of an invariant, of a request. */
function badge(kind) {
  const node = make("span", { class: `badge ${kind}` });
  const update = (word, text = word) => (set(node, `data-${kind}`, word), put(node, text));
  return { node, update };
}

const ownerCell = {
  make(cell) {
    const owner = badge("owner");
    cell.append(owner.node);
    return (queue) => owner.update(queue.owner);
  },
};

// -- controls ---------------------------------------------------------------------------------------------------------

/** A field of the controls: its node, what it holds, and what is wrong with that ("" if nothing). */
function field(name, about) {
  const { kind, label = name, choices = [], least, most } = about;
  const first = about.value ?? choices[0] ?? least ?? "";
  const input = make(kind === "choice" ? "select" : "input", { class: "field", "data-field": name });
  if (kind === "choice") input.append(...choices.map((choice) => make("option", {}, String(choice))));
  else Object.assign(input, kind === "int" ? { type: "number", min: least ?? "", max: most ?? "", step: 1 } : { type: "text" });
  input.value = first;
  const node = make("label", { class: "label" }, label, input);
  node.hidden = kind === "int" && least === most; // there is nothing to choose
  const value = () => (kind === "int" ? Number(input.value) : input.value);
  const problem = () => {
    const bad = !node.hidden && kind === "int" && (input.value === "" || !input.checkValidity());
    set(input, "aria-invalid", bad ? "true" : null);
    return bad ? `${label}: a whole number from ${least} to ${most}` : "";
  };
  return { node, value, problem };
}

/** A button of one action, and its call in words beside, which a screen reader reads as its description. */
function actionButton(context, action, fields, send) {
  const id = `${context.uid}-${context.count++}`;
  const button = make("button", { type: "button", class: "button", "aria-describedby": id, "data-ask": action.id }, action.label);
  const code = make("code");
  const why = make("span", { class: "why" });
  const said = make("p", { id, class: "said", hidden: "" }, code, " ", make("span", {}, action.help ?? ""), " ", why);
  const values = () => Object.fromEntries(Object.entries(fields).map(([name, { value }]) => [name, value()]));
  const update = (reason) => {
    const held = values();
    put(code, (action.code ?? "").replace(/\{(\w+)\}/g, (whole, name) => held[name] ?? whole));
    put(why, reason ? `Not now: ${reason}.` : "");
    set(button, "aria-disabled", reason ? "true" : null);
  };
  button.addEventListener("click", () => {
    const problem = () => Object.values(fields).map((one) => one.problem()).find(Boolean);
    const wrong = button.getAttribute("aria-disabled") ? why.textContent : problem();
    if (wrong) context.complain(wrong);
    else send(action.id, values());
  });
  return { button, said, update };
}

/** Shows the call of the button that is pointed at, or else has the focus. */
function calls(area, buttons, idle) {
  let focused = null;
  let pointed = null;
  const tell = () => {
    const active = pointed ?? focused;
    buttons().forEach(({ button, said }) => show(said, button === active));
    show(idle, !active);
  };
  const of = (event) => event.target.closest?.("button[aria-describedby]") ?? null;
  area.addEventListener("focusin", (event) => ((focused = of(event)), tell()));
  area.addEventListener("focusout", () => ((focused = null), tell()));
  area.addEventListener("pointerover", (event) => ((pointed = of(event)), tell()));
  area.addEventListener("pointerleave", () => ((pointed = null), tell()));
}

function controls(context, index) {
  const { about, uid } = context;
  const buttons = [];
  let reasonOf = () => "";
  const refresh = () => buttons.forEach(({ action, update }) => update(reasonOf(action)));
  const groups = [...new Set([...GROUPS, ...about.actions.map(({ group }) => group)])];
  const bar = make("div", { class: "bar" });
  const words = make("div", { class: "words" });
  for (const group of groups) {
    const actions = about.actions.filter((action) => action.group === group);
    if (!actions.length) continue;
    const names = [...new Set(actions.flatMap((action) => action.fields ?? []))].filter((name) => about.fields?.[name]);
    const fields = Object.fromEntries(names.map((name) => [name, field(name, about.fields[name])]));
    const row = make("div", { class: "row apart" });
    for (const action of actions) {
      const own = Object.fromEntries((action.fields ?? []).filter((name) => fields[name]).map((name) => [name, fields[name]]));
      const part = { action, ...actionButton(context, action, own, (id, values) => context.ask(id, index, values)) };
      buttons.push(part);
      words.append(part.said);
      const fresh = Object.values(own).map(({ node }) => node).filter((node) => !node.parentNode); // behind its first button
      row.append(make("span", { class: "row" }, part.button, ...fresh));
    }
    const id = `${uid}-${context.count++}`;
    bar.append(make("div", { class: "group", role: "group", "aria-labelledby": id }, make("span", { id, class: "legend" }, group), row));
  }
  const idle = make("p", { class: "said idle" }, "Point at a button, or go to it by Tab: here is its call.");
  words.prepend(idle);
  const node = panel("wide controls", "controls", bar, words);
  calls(bar, () => buttons, idle);
  bar.addEventListener("input", refresh);
  const update = ({ state }) => {
    reasonOf = ({ when }) => context.lost() || (when?.length && !when.includes(state) ? `the machine is ${state}` : "");
    refresh();
  };
  return { node, update };
}

// -- datapath ---------------------------------------------------------------------------------------------------------

const BOX = { width: 92, height: 38 };
const STATIONS = ["guest", "cpu", "eventfd", "proxy", "iothread", "backend", "queue", "device", "image"];
const WAYS = [
  ["guest", "cpu", "outw"], ["cpu", "eventfd", "match"], ["cpu", "proxy", "trap"], ["eventfd", "iothread"],
  ["eventfd", "backend"], ["proxy", "eventfd"], ["iothread", "queue"], ["backend", "queue"], ["proxy", "queue"],
  ["queue", "device"], ["device", "image"],
];
const LAYOUTS = {
  across: {
    size: [928, 170], hints: { outw: [0, -6], match: [-8, -14], trap: [15, -8] },
    at: { guest: [47, 76], cpu: [188, 76], eventfd: [348, 46], proxy: [348, 150], iothread: [494, 20], backend: [494, 76],
      queue: [646, 76], device: [764, 76], image: [880, 76] },
  },
  down: {
    size: [330, 400], hints: { outw: [20, 4], match: [-32, 2], trap: [34, 2] },
    at: { guest: [165, 20], cpu: [165, 92], eventfd: [98, 168], proxy: [283, 168], iothread: [47, 240], backend: [149, 240],
      queue: [165, 312], device: [105, 380], image: [225, 380] },
  },
};
const ROUTES = {
  trap: ["guest", "cpu", "proxy", "queue", "device", "image"],
  eventfd: ["guest", "cpu", "eventfd", "iothread", "queue", "device", "image"],
  backend: ["guest", "cpu", "eventfd", "backend", "queue", "device", "image"],
  forwarded: ["guest", "cpu", "proxy", "eventfd", "iothread", "queue", "device", "image"],
  nobody: ["guest", "cpu", "eventfd"],
};
const WOULD = {
  trap: "The next one would trap to the proxy.", eventfd: "The next one would go through the eventfd to the iothread.",
  backend: "The next one would go through the eventfd to the backend.", nobody: "The next one would be served by nobody.",
};

/** A line from one box to the next with its head. Those that come from above and from below do not end at one point. */
function way([x1, y1], [x2, y2], down) {
  const sideways = down ? y1 === y2 : x1 !== x2;
  const [dx, dy] = sideways ? [Math.sign(x2 - x1), 0] : [0, Math.sign(y2 - y1)];
  const aside = (from, to) => Math.max(-9, Math.min(9, (from - to) / 5));
  const [sx, sy] = [x1 + (dx * BOX.width) / 2, y1 + (dy * BOX.height) / 2];
  const ex = x2 - dx * (BOX.width / 2 + 5) + (sideways ? 0 : aside(x1, x2));
  const ey = y2 - dy * (BOX.height / 2 + 5) + (sideways ? aside(y1, y2) : 0);
  const [bx, by] = [(dx * Math.abs(ex - sx)) / 2, (dy * Math.abs(ey - sy)) / 2];
  const line = `M${sx} ${sy}C${sx + bx} ${sy + by} ${ex - bx} ${ey - by} ${ex} ${ey}`;
  const head = `M${ex + 5 * dx} ${ey + 5 * dy}l${-9 * dx - 5 * dy} ${-9 * dy - 5 * dx}l${10 * dy} ${10 * dx}z`;
  return { line, head, middle: [(sx + ex) / 2, (sy + ey) / 2] };
}

function picture(name, { size, at, hints }) {
  const ways = WAYS.map(([from, to, label]) => {
    const { line, head, middle } = way(at[from], at[to], name === "down");
    const node = make("g", { class: "way" }, make("path", { d: line, class: "line" }), make("path", { d: head, class: "head" }));
    if (label) node.append(make("text", { x: middle[0] + hints[label][0], y: middle[1] + hints[label][1], class: "hint" }, label));
    return { from, to, node };
  });
  const boxes = Object.fromEntries(STATIONS.map((station) => {
    const [x, y] = at[station];
    const [label, more] = [make("text", { x, y }), make("text", { x, y: y + 13, class: "more" })];
    const { width, height } = BOX;
    const node = make("g", { class: "box" }, make("rect", { x: x - width / 2, y: y - height / 2, width, height, rx: 5 }), label, more);
    return [station, { node, label, more, y }];
  }));
  const nodes = [...ways, ...Object.values(boxes)].map(({ node }) => node);
  const node = make("svg", { class: `path ${name}`, viewBox: `-1 -1 ${size[0] + 2} ${size[1] + 2}`, "aria-hidden": "true" }, ...nodes);
  const on = (route, { from, to }) => route.indexOf(from) >= 0 && route[route.indexOf(from) + 1] === to;
  const update = (lit, next, words) => {
    set(node, "data-by", lit.includes("backend") ? "backend" : lit.includes("iothread") ? "vmm" : "none");
    ways.forEach((one) => (light(one.node, "next", on(next, one)), light(one.node, "lit", on(lit, one))));
    for (const [station, { node, label, more, y }] of Object.entries(boxes)) {
      const [first, second = ""] = words[station];
      put(label, first), put(more, second), set(label, "y", second ? y - 2 : y + 5);
      light(node, "lit", lit.includes(station));
    }
  };
  return { node, update };
}

const short = (text) => String(text || NOTHING).replace(/^(.{11})..+$/, "$1…"); // what a box has room for

function datapath() {
  const pictures = Object.entries(LAYOUTS).map(([name, layout]) => picture(name, layout));
  const said = make("p", { class: "sentence" });
  const title = make("h4", { class: "title" }, "path of a kick");
  const node = panel("wide datapath", "datapath", title, ...pictures.map((one) => one.node), said);
  const update = ({ datapath: path, queues = [] }) => {
    const ours = path.owner ?? queues.find(({ index }) => index === path.queue)?.owner;
    const lent = (station) => (ours === "backend" && station === "iothread" ? "backend" : station);
    const routed = (name) => (name === "forwarded" ? ROUTES.forwarded.map(lent) : ROUTES[name] ?? []);
    const pending = path.pending ? `● ${path.pending} pending` : "";
    const fd = path.fd == null ? ["eventfd", "none"] : [`eventfd ${path.fd}`, pending || "0 pending"];
    const words = {
      guest: ["guest"], cpu: ["CPU"], eventfd: fd, proxy: ["proxy"], iothread: ["iothread"], backend: ["backend"],
      queue: [`queue ${path.queue ?? NOTHING}`], device: [short(path.device)], image: [short(path.image)],
    };
    const text = [path.text, WOULD[path.would]].filter(Boolean).join(" ");
    put(said, text);
    pictures.forEach((one) => one.update(routed(path.path), routed(path.would), words));
  };
  return { node, update };
}

// -- registers, queues, rings -----------------------------------------------------------------------------------------

const bitsCell = {
  make(cell) {
    const chips = make("span", { class: "bits", "aria-hidden": "true" });
    const words = make("span");
    cell.append(chips, words);
    return ({ bits, text }) => {
      put(words, text ?? "");
      set(words, "class", css(bits?.length ? "only-heard" : "dim"));
      keyed(chips, bits ?? [], ({ name }) => name, () => {
        const node = make("span", { class: "bit" });
        return { node, update: (bit) => (put(node, bit.name), light(node, "on", bit.on)) };
      });
    };
  },
};

function proxy() {
  const columns = [["register", ({ name }) => name, "name"], ["value", ({ value }) => value, "number"], ["meaning", bitsCell]];
  const { node, fill } = table("proxy registers", columns, ({ name }) => name);
  return { node: panel("proxy", "proxy registers", scroller("proxy registers", node)), update: (machine) => fill(machine.proxy) };
}

function queues() {
  const plain = ["fd", "port", "value", "pending", "trapped", "signalled", "drained", "synthetic"];
  const numbers = plain.map((name) => [name, (queue) => queue[name], "number"]);
  const name = "queues and their notifiers";
  const { node, fill } = table(name, [["queue", ({ index }) => index, "number"], ["owner", ownerCell], ...numbers], ({ index }) => index);
  return { node: panel("queues", "queues", scroller(name, node)), update: (machine) => fill(machine.queues) };
}

const TURN = 100; // the circumference of the ring below, by its radius
const modulo = (number, by) => ((number % by) + by) % by;

/** How far avail, used and last_avail are apart; null without a ring. They count on past 65535, from 0. */
function flight({ num, avail, used, last_avail: seen }) {
  if (!num || [avail, used, seen].includes(null)) return null;
  return { works: modulo(seen - used, 65536), waits: modulo(avail - seen, 65536), used, seen };
}

/** A ring as a ring: from used to last_avail the device works, from there to avail it has not looked yet. */
const ringCell = {
  make(cell) {
    const circle = (look) => make("circle", { cx: 20, cy: 20, r: TURN / 2 / Math.PI, class: look });
    const [whole, works, waits] = ["ring", "ring works", "ring waits"].map(circle);
    cell.append(make("svg", { viewBox: "0 0 40 40", class: "donut", "aria-hidden": "true" }, whole, works, waits));
    const arc = (node, from, length, num) => {
      const seen = length && Math.max(3, (TURN * Math.min(length, num)) / num);
      set(node, "stroke-dasharray", `${seen.toFixed(1)} ${TURN}`);
      set(node, "stroke-dashoffset", ((-TURN * modulo(from, num)) / num).toFixed(1));
    };
    return (queue) => {
      const now = flight(queue) ?? { works: 0, waits: 0, used: 0, seen: 0 };
      arc(works, now.used, now.works, queue.num || 1), arc(waits, now.seen, now.waits, queue.num || 1);
    };
  },
};

const flightCell = {
  make(cell) {
    const [words, more, bar] = [make("span"), make("span", { class: "dim" }), make("span", { class: "fill" })];
    cell.append(words, make("span", { class: "gauge", "aria-hidden": "true" }, bar), more);
    return (queue) => {
      const { num, in_flight: flies } = queue;
      const now = flight(queue);
      put(words, num ? `${flies ?? NOTHING} of ${num}` : "no ring");
      put(more, now ? `${now.works} at work, ${now.waits} not looked at` : "");
      const share = num && flies ? `${Math.min(100, (100 * flies) / num)}%` : "0%";
      if (bar.style.width !== share) bar.style.width = share;
    };
  },
};

function rings() {
  const columns = [["queue", ({ index }) => index, "number"], ["ring", ringCell], ["descriptors in flight", flightCell],
    ...["avail", "used", "last_avail"].map((name) => [name, (queue) => queue[name], "number"])];
  const { node, fill } = table("rings", columns, ({ index }) => index);
  return { node: panel("rings", "rings", scroller("rings", node)), update: (machine) => fill(machine.queues) };
}

// -- timeline ---------------------------------------------------------------------------------------------------------

/** Bars of one lane as one path: the height is the logarithm, so that one event is seen beside a thousand. */
function bars(cells, highest) {
  const scale = 8 / Math.log2(1 + Math.max(1, highest));
  return cells.map((count, at) => (count ? `M${at} 10h.8v${-(2 + scale * Math.log2(1 + count)).toFixed(1)}h-.8z` : "")).join("");
}

function lane({ name }) {
  const path = make("path");
  const svg = make("svg", { class: "lane", preserveAspectRatio: "none", "aria-hidden": "true" }, path);
  const sum = make("td", { class: "number" });
  const node = make("tr", { "data-lane": name }, make("th", { scope: "row", class: "name" }, name), make("td", { class: "plot" }, svg), sum);
  const update = ({ cells, highest }) => {
    set(svg, "viewBox", `0 0 ${Math.max(1, cells.length)} 10`);
    set(path, "d", bars(cells, highest));
    put(sum, cells.reduce((all, count) => all + count, 0));
  };
  return { node, update };
}

function ownerLane({ name }) {
  const band = make("span", { class: "band" });
  const node = make("tr", {}, make("th", { scope: "row", class: "name" }, `owner of ${name}`), make("td", { class: "plot" }, band), make("td"));
  const update = ({ cells }) => {
    const runs = [];
    for (const owner of cells) runs.at(-1)?.owner === owner ? (runs.at(-1).length += 1) : runs.push({ owner, length: 1 });
    keyed(band, runs, (_, at) => at, () => {
      const part = badge("owner");
      const { style } = part.node;
      return { node: part.node, update: ({ owner, length }) => (part.update(owner), style.flexGrow == length || (style.flexGrow = length)) };
    });
  };
  return { node, update };
}

function timeline(context) {
  const columns = [["lane", () => ""], ["events, by time", () => ""], ["sum", () => "", "number"]];
  const { node: lanes, title, body } = table("timeline", columns, () => "");
  const range = make("input", { type: "range", class: "cursor", min: 0, "aria-label": "moment of the timeline" });
  const said = make("p", { class: "sentence" });
  body.after(make("tfoot", {}, make("tr", {}, make("td"), make("td", { class: "plot" }, range), make("td"))));
  const node = panel("wide timeline", "timeline", lanes, said);
  let texts = [];
  let chosen = null; // null: the cursor stays at the newest column
  const point = () => {
    const at = chosen ?? texts.length - 1;
    set(range, "max", Math.max(0, texts.length - 1));
    if (range.value !== String(at)) range.value = at;
    const words = chosen === null ? "Move the cursor to read a column." : `column ${at + 1}: ${texts[at] ?? NOTHING}`;
    put(said, words), set(range, "aria-valuetext", words);
    lanes.style.setProperty("--labkit-at", chosen === null ? -1 : (at + 0.5) / Math.max(1, texts.length));
  };
  const choose = (at) => ((chosen = at < 0 || at >= texts.length ? null : at), point());
  range.addEventListener("input", () => choose(Number(range.value)));
  body.addEventListener("pointermove", (event) => {
    const plot = event.target.closest(`.${css("plot")}`)?.getBoundingClientRect();
    if (plot) choose(Math.floor(((event.clientX - plot.left) / plot.width) * texts.length));
  });
  body.addEventListener("pointerleave", () => document.activeElement === range || choose(-1));
  range.addEventListener("blur", () => choose(-1));
  const update = ({ timeline: drawn }) => {
    const { unit = "", lanes = [], owners = [] } = drawn;
    texts = drawn.columns ?? lanes[0]?.cells ?? [];
    put(title, unit ? `timeline: ${unit}` : "timeline");
    const highest = lanes.reduce((most, { cells }) => cells.reduce((a, b) => Math.max(a, b), most), 0);
    const rows = [...owners.map((one) => ({ ...one, owner: true })), ...lanes.map((one) => ({ ...one, highest }))];
    keyed(body, rows, ({ name, owner }) => `${owner ? "owner" : "lane"} ${name}`, (one) => (one.owner ? ownerLane(one) : lane(one)));
    point();
  };
  return { node, update };
}

// -- events -----------------------------------------------------------------------------------------------------------

/** The prose of one rule beside the events: opened by its link, closed by Escape, and the focus goes back. */
function ruleBook({ about, uid }) {
  const id = `${uid}-rule`;
  const [title, prose, close] = [make("h4", { class: "title" }), make("p"), make("button", { type: "button", class: "button" }, "Close")];
  const node = make("aside", { id, class: "rule", hidden: "", tabindex: -1, "aria-label": "rule" }, title, prose, close);
  let from = null;
  const shut = () => (show(node, false), from?.isConnected && from.focus());
  close.addEventListener("click", shut);
  node.addEventListener("keydown", (event) => event.key === "Escape" && (event.stopPropagation(), shut()));
  const link = () => {
    const anchor = make("a", { class: "link", href: `#${id}` });
    anchor.addEventListener("click", (event) => {
      event.preventDefault(); // a notebook's own hash is not ours
      from = anchor;
      const rule = anchor.textContent;
      put(title, `${rule}${about.rules_of ? `, ${about.rules_of}` : ""}`);
      put(prose, Object.hasOwn(about.rules ?? {}, rule) ? about.rules[rule] : "This rule has no text here.");
      show(node, true), node.focus();
    });
    return anchor;
  };
  return { node, link };
}

function events(context) {
  const book = ruleBook(context);
  const ruleCell = {
    make(cell) {
      const link = book.link();
      cell.append(link);
      return ({ rule }) => (put(link, rule ?? ""), show(link, rule));
    },
  };
  const columns = [["time", ({ time }) => time, "number"], ["actor", ({ actor }) => actor, "name"], ["queue", ({ queue }) => queue ?? "", "number"],
    ["event", ({ name }) => name, "name"], ["rule", ruleCell], ["what", ({ text }) => text, "what"]];
  const { node: list, fill } = table("events, newest first", columns, ({ seq }) => seq, (row, { name }) => set(row, "data-event", name));
  const more = make("p", { class: "sentence", hidden: "" });
  const area = scroller("events", list);
  light(area, "high", true);
  const node = panel("wide events", "events", more, make("div", { class: "beside" }, area, book.node));
  const update = ({ events: shown, skipped = 0 }) => {
    show(more, skipped > 0), put(more, `${skipped} more events since the last picture: they are in the lanes, not in this list.`);
    fill(shown);
  };
  return { node, update };
}

// -- who is held ------------------------------------------------------------------------------------------------------

function held(context, index) {
  const list = make("ul", { class: "held", "aria-label": "held threads" });
  const offered = (context.about.actions ?? []).filter(({ id, fields }) => ["step", "release"].includes(id) && fields?.includes("actor"));
  const create = ({ actor, armed }) => {
    const words = make("span");
    const buttons = (armed ? [] : offered).map(({ id, label }) => {
      const button = make("button", { type: "button", class: "button", "aria-label": `${label} ${actor}` }, label);
      button.addEventListener("click", () => (context.lost() ? context.complain(GONE) : context.ask(id, index, { actor })));
      return button;
    });
    const update = ({ gate, queue }) => {
      const where = `${gate}${queue == null ? "" : `, queue ${queue}`}`;
      put(words, armed ? `${actor} will be held` : `${actor} is held behind ${where}`);
    };
    return { node: make("li", {}, words, ...buttons), update };
  };
  const update = ({ held: now = [], armed = [] }) => {
    const later = armed.filter((actor) => !now.some((one) => one.actor === actor)).map((actor) => ({ actor, armed: true }));
    keyed(list, [...now, ...later], (one) => `${one.actor} ${one.armed ?? ""}`, create);
    show(list, list.firstChild);
  };
  return { node: list, update };
}

// -- a machine --------------------------------------------------------------------------------------------------------

/** Who owns each notifier, in the head of the screen: it is what all of this is about. */
function owners() {
  const list = make("ul", { class: "owners", "aria-label": "owners of the notifiers" });
  const still = matchMedia("(prefers-reduced-motion: reduce)");
  const create = ({ index }) => {
    const owner = badge("owner");
    let before;
    const update = (queue) => {
      owner.update(queue.owner);
      if (before !== undefined && before !== queue.owner && !still.matches) owner.node.animate?.([{ transform: "scale(1.18)" }, {}], 500);
      before = queue.owner;
    };
    return { node: make("li", {}, `queue ${index}`, owner.node), update };
  };
  return { node: list, update: ({ queues = [] }) => keyed(list, queues, ({ index }) => index, create) };
}

const VIEWS = { controls, datapath, proxy, queues, rings, timeline, events };
const SHOWS = { controls: "state", rings: "queues" }; // the part of a scene that a view shows, if its name is another

function machineView(context, index) {
  const [name, title, state] = [make("strong", { class: "name" }), make("span", { class: "dim" }), badge("state")];
  const note = make("p", { class: "note", role: "alert", hidden: "" });
  const head = [owners(), held(context, index)];
  const wanted = (context.about.views ?? []).filter((view) => Object.hasOwn(VIEWS, view));
  const parts = wanted.map((view) => ({ shows: SHOWS[view] ?? view, ...VIEWS[view](context, index) }));
  const top = make("header", { class: "head" }, name, title, state.node, head[0].node, note, head[1].node);
  const node = make("section", { class: "machine" }, top, make("div", { class: "panels" }, ...parts.map((part) => part.node)));
  const update = (machine) => {
    set(node, "aria-label", machine.name);
    put(name, machine.name), put(title, machine.title ?? ""), state.update(machine.state);
    show(note, machine.note), put(note, machine.note ?? ""), light(note, "bad", machine.state === "crashed");
    head.forEach((part) => part.update(machine));
    for (const { node: drawn, shows, update: draw } of parts) {
      show(drawn, machine[shows] != null);
      if (!drawn.hidden) draw(machine);
    }
  };
  return { node, update };
}

// -- a race, step by step ---------------------------------------------------------------------------------------------

const STEPS = {
  back: ["Back", "Undo the last decision."], again: ["Again", "Start anew, with no decision taken."],
  rest: ["Run the rest", "Let it run to its end, as the policy does."],
  search: ["Search", "Find the shortest schedule that breaks an invariant, and load it."],
  stop: ["Stop", "End a search, and forget what waits."],
};

function stepperView(context) {
  const { about } = context;
  const send = (id, values) => context.ask(id, 0, values);
  const [name, rules, outcome] = [make("strong", { class: "name" }), make("span", { class: "dim" }), badge("outcome")];
  const story = make("p", { class: "sentence" });
  const words = make("div", { class: "words" });
  const idle = make("p", { class: "said idle" }, "Click an actor to let it go to its next gate.");
  words.append(idle);
  const known = Object.fromEntries((about.actions ?? []).map((action) => [action.id, action]));
  const actionOf = (id, label, help) => ({ id, label, help, code: "", ...known[id] });
  const steps = Object.entries(STEPS).map(([id, [label, help]]) => ({ id, ...actionButton(context, actionOf(id, label, help), {}, send) }));
  const lets = new Map();
  const schedule = make("code", { class: "schedule", tabindex: 0, "aria-label": "schedule" });
  const copy = make("button", { type: "button", class: "button" }, "Copy");
  copy.addEventListener("click", () => {
    getSelection().selectAllChildren(schedule); // where there is no clipboard, Ctrl+C is left to do
    navigator.clipboard?.writeText(schedule.textContent).then(() => context.tell("The schedule is copied."), () => {});
  });
  const wanted = field("schedule", { kind: "text", label: "schedule to play" });
  const play = actionButton(context, actionOf("play", "Play", "Take its decisions."), { schedule: wanted }, send);

  const heads = make("tr");
  const rows = make("tbody");
  const grid = make("table", { class: "table lanes" }, make("caption", { class: "only-heard" }, "decisions"), make("thead", {}, heads), rows);
  const area = scroller("decisions", grid);
  const column = (name) => ({ node: make("th", { scope: "col" }, name) });
  const actorRow = (actor) => {
    const go = actionButton(context, { ...actionOf("go", "", ""), label: `▶\uFE0E ${actor.name}`, help: `Let ${actor.name} go to its next gate.` },
      { actor: { value: () => actor.name, problem: () => "" } }, send);
    go.button.setAttribute("aria-label", `let ${actor.name} go`);
    lets.set(actor.name, go), words.append(go.said);
    const [stands, next] = [make("span"), make("code")];
    const first = make("th", { scope: "row", class: "actor" }, go.button, make("span", { class: "stands" }, stands, next));
    const node = make("tr", {}, first);
    node.labkitKnown = new Map([["first", { node: first }]]);
    const update = ({ can, stands: where, next: call, decisions, over, no }) => {
      put(stands, where || "idle"), put(next, call ? `next: ${call}` : "");
      go.update(no || (over ? "the schedule has ended" : can ? "" : `it stands ${where || "idle"} and nothing lets it go on`));
      const did = (one) => (one.did ?? []).join(", ") || one.step || "nothing";
      const cells = decisions.map((one, at) => (one.actor === actor.name ? `${at} ${did(one)}` : `${at}`));
      keyed(node, ["first", ...cells], (key) => key, (key) => {
        const [, , what] = key.match(/^(\d+) ?(.*)$/s);
        return { node: what ? make("td", { class: "did" }, make("span", {}, what)) : make("td") };
      });
    };
    return { node, update };
  };

  const stateCell = {
    make(cell) {
      const state = badge("invariant");
      cell.append(state.node);
      return (item) => state.update(item.state);
    },
  };
  const columns = [["invariant", ({ name }) => name, "name"], ["state", stateCell],
    ["what it means if it is broken", ({ sentence }) => sentence, "prose"], ["seen", ({ seen }) => seen || NOTHING, "prose"]];
  const invariants = table("invariants", columns, ({ name }) => name, (row, { state }) => light(row, "broken", state === "broken"));
  const list = events(context);
  const note = make("p", { class: "note", hidden: "" });
  const top = make("header", { class: "head" }, name, rules, outcome.node, note);
  const bar = make("div", { class: "row", role: "group", "aria-label": "the whole schedule" }, ...steps.map(({ button }) => button));
  const lower = make("div", { class: "row" }, make("span", { class: "legend" }, "schedule"), schedule, copy, wanted.node, play.button);
  words.append(...steps.map(({ said }) => said), play.said);
  lower.addEventListener("input", () => play.update(context.lost()));
  const title = make("h4", { class: "title" }, "who was let go, decision by decision");
  const lanes = panel("wide stepper", "lanes", story, title, area, bar, lower, words);
  calls(lanes, () => [...lets.values(), ...steps, play], idle);
  const node = make("section", { class: "machine" }, top, make("div", { class: "panels" }, lanes,
    panel("wide invariants", "invariants", scroller("invariants", invariants.node)), list.node));
  const update = (race) => {
    const { decisions = [], actors = [], over } = race;
    const no = context.lost() || (race.note ? "the stepper is closed" : "");
    set(node, "aria-label", race.scenario), put(name, race.scenario);
    const wrong = (race.mutations ?? []).join(", ");
    put(rules, [race.cpu, wrong ? `with ${wrong}` : "the true rules"].filter(Boolean).join(" · "));
    const broken = (race.invariants ?? []).filter((one) => one.state === "broken").length;
    const ended = `ended: ${[race.outcome, broken && `${broken} broken`].filter(Boolean).join(", ")}`;
    outcome.update(broken ? "broken" : race.outcome || "open", over ? ended : `open, ${decisions.length} decided`);
    put(story, race.story ?? ""), put(schedule, race.schedule ?? "");
    const atEnd = area.scrollLeft + area.clientWidth >= area.scrollWidth - 8;
    const grown = heads.childElementCount !== decisions.length + 1;
    keyed(heads, ["actor", ...decisions.map((_, at) => at + 1)], (one) => one, column);
    keyed(rows, actors.map((actor) => ({ ...actor, decisions, over, no })), (actor) => actor.name, actorRow);
    if (grown && atEnd) queueMicrotask(() => (area.scrollLeft = area.scrollWidth)); // the first time it is in no page yet
    show(note, race.note), put(note, race.note ?? "");
    const useless = { back: !decisions.length && "nothing is decided yet", rest: over && "the schedule has ended" };
    steps.forEach(({ id, update: allow }) => allow(no || useless[id] || ""));
    play.update(no);
    invariants.fill(race.invariants ?? []);
    list.update({ events: [], ...race });
  };
  return { node, update };
}

// -- the page's end of the conversation -------------------------------------------------------------------------------

/** Numbers what is asked, and knows what the kernel has not taken yet. */
function conversation(model, page, changed) {
  const waiting = new Map(); // seq -> when it was sent
  let [seq, timer, silent, gone] = [0, null, false, false];
  const watch = () => {
    clearTimeout(timer), (timer = null);
    const oldest = waiting.values().next().value;
    if (oldest === undefined || gone) silent = false;
    else if (performance.now() - oldest >= PATIENCE_MS) silent = true;
    else (silent = false), (timer = setTimeout(() => (watch(), changed()), PATIENCE_MS - (performance.now() - oldest)));
  };
  return {
    ask(what, machine, values) {
      waiting.set((seq += 1), performance.now());
      try {
        model.send({ ask: what, seq, page, machine, with: values });
      } catch {
        gone = true; // the comm is closed, or the kernel dead
      }
      watch(), changed();
    },
    taken(answer) {
      if (answer?.page !== page || !waiting.delete(answer.taken)) return; // of another view
      watch(), changed();
    },
    live(is) {
      gone = !is;
      if (gone) waiting.clear();
      watch(), changed();
    },
    stop: () => clearTimeout(timer),
    state: () => ({ waiting: waiting.size, silent, gone }),
  };
}

/** What was asked last and how it went, in words. */
function askedLine() {
  const [code, outcome, text, counts] = [make("code"), badge("asked"), make("span"), make("span", { class: "dim" })];
  const node = make("p", { class: "asked", "aria-label": "last request" }, code, outcome.node, text, counts);
  const update = (asked, waiting, alerted) => {
    const { done = 0, code: what = "", outcome: how = "", text: said = "" } = asked;
    const machine = asked.waiting ?? 0;
    put(code, what), outcome.update(how), put(text, how === "failed" ? "" : said);
    const words = [done && `${done} carried out`, machine && `${machine} wait for the machine`, waiting && `${waiting} wait for the kernel`];
    put(counts, words.filter(Boolean).join(", "));
    show(node, waiting || machine || (what && !alerted));
  };
  return { node, update };
}

function render({ model, el }) {
  const uid = `labkit-${Math.random().toString(36).slice(2, 10)}`;
  const status = make("p", { class: "status", role: "status" });
  const alert = make("p", { class: "alert", role: "alert", hidden: "" });
  const asked = askedLine();
  const machines = make("div", { class: "machines" });
  const root = make("div", { class: "screen" }, make("div", { class: "news" }, alert, asked.node, status), machines);
  let [complaint, spoken, breath] = ["", "", null];
  const talk = conversation(model, uid, () => draw());
  const context = {
    uid, about: model.get("about") ?? {}, count: 0,
    lost: () => (talk.state().gone ? "the kernel has gone, run the cell again" : ""),
    ask: (what, machine, values) => ((complaint = ""), talk.ask(what, machine, values)),
    complain: (text) => ((complaint = text), draw()),
    tell: (text) => put(status, text),
  };

  // The newest change is said at once, those that come within a breath of it only if nothing newer comes.
  const announce = (text) => {
    if (!text || text === spoken) return;
    spoken = text;
    if (breath) return;
    put(status, text);
    breath = setTimeout(() => ((breath = null), put(status, spoken)), BREATH_MS);
  };

  function draw() {
    const scene = model.get("scene") ?? {};
    const last = scene.asked ?? scene.stepper?.asked ?? {};
    const { waiting, silent, gone } = talk.state();
    let broken = "";
    try {
      if (scene.stepper) keyed(machines, [scene.stepper], () => "stepper", () => stepperView(context));
      else keyed(machines, scene.machines ?? [], (_, at) => at, (_, at) => machineView(context, at));
    } catch (error) {
      broken = `This frame could not be drawn: ${error.message}`;
    }
    const failed = last.outcome === "failed" ? `${last.code ?? ""} failed: ${last.text ?? ""}` : "";
    const wrong = gone ? GONE : silent ? SILENT : broken || complaint || failed;
    show(alert, wrong), put(alert, wrong);
    asked.update(last, waiting, failed && wrong === failed);
    announce(scene.announce);
  }

  const listeners = {
    "change:scene": draw, "msg:custom": (answer) => talk.taken(answer),
    "comm_live_update"() { talk.live(this?.model?.comm_live ?? false); }, // `this` is the view, as ipywidgets has it
    "comm:close": () => talk.live(false), "destroy": () => talk.live(false),
  };
  for (const [name, listener] of Object.entries(listeners)) model.on(name, listener);
  // A key that is pressed in here is no shortcut of a notebook around it, where B makes a cell and an arrow leaves a field.
  root.addEventListener("keydown", (event) => event.ctrlKey || event.metaKey || event.stopPropagation());
  el.append(root);
  talk.live(!el.classList.contains("jupyter-widgets-disconnected")); // a page that was stored begins without a comm
  return () => {
    for (const [name, listener] of Object.entries(listeners)) model.off(name, listener);
    clearTimeout(breath), talk.stop();
    root.remove();
  };
}

export default { render };
